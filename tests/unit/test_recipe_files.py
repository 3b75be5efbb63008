"""Names on a command line: of configurations, files and options."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_process import environment

from amsincnet_sb.cli import main
from amsincnet_sb.dataio import corpus
from amsincnet_sb.dataio.manifest import Provenance
from amsincnet_sb.training.arguments import parse_arguments
from amsincnet_sb.training.recipe_files import HPARAMS, find_hparams
from amsincnet_sb.utils.errors import InputError


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("am_sincnet_m005", HPARAMS / "am_sincnet_m005.yaml"),
        ("sincnet.yaml", HPARAMS / "sincnet.yaml"),
        ("demo", "demo.yaml"),  # the user's comes first
        ("demo.yaml", "demo.yaml"),
        ("./demo.yaml", "./demo.yaml"),
        ("sub/mine", "sub/mine.yaml"),
        ("gone/demo.yaml", "gone/demo.yaml"),  # refused when it is read
    ],
)
def test_a_configuration_or_a_file(tmp_path, monkeypatch, name, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sincnet.yaml").mkdir()  # a folder is none
    for path in ("demo.yaml", "sub/mine.yaml"):
        Path(path).write_text("a: 1")
    assert find_hparams(name) == str(found)
    assert parse_arguments([name])[0] == str(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (["demmo"], "demmo is no file .* did you mean demo?"),
        (["--lr=1"], "amsincnet hparams.* is missing"),
        (["demo", "--device"], "argument --device: expected one argument"),
        (["demo", "--precision=x"], "argument --precision: invalid choice"),
        (["demo", "--lr-x=1", "--lr_x=2"], "has --lr_x twice"),
    ],
)
def test_what_cannot_be_meant(line, complaint):
    with pytest.raises(InputError, match=complaint):
        parse_arguments(line)


def test_hyphens_and_underscores():
    for line in (
        ["demo", "--data-folder=a-b", "--debug-batches", "3", "--test-only"],
        ["demo", "--data_folder", "a-b", "--debug_batches=3", "--test_only"],
    ):
        _, run_opts, overrides = parse_arguments(line)
        assert overrides == {"data_folder": "a-b"}
        assert (run_opts.debug_batches, run_opts.test_only) == (3, True)
        assert {"debug_batches", "test_only"} == run_opts.overridden_args


def test_copies_to_edit(tmp_path, capsys):
    assert main(["hparams"]) == 0
    names = capsys.readouterr().out.split()
    assert {"demo", "am_sincnet_m095"} < {*names}
    folder = tmp_path / "mine"
    for _ in range(2):  # the same files again are no loss
        assert main(["hparams", "--copy", str(folder)]) == 0
    assert sorted(p.stem for p in folder.iterdir()) == names
    edited = folder / "demo.yaml"
    edited.write_text("mine")
    (folder / "sincnet.yaml").unlink()
    with pytest.raises(SystemExit):
        main(["hparams", "--copy", str(folder)])
    assert "demo.yaml is there already" in capsys.readouterr().err
    assert edited.read_text() == "mine"
    assert not (folder / "sincnet.yaml").exists()


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_copies_replace_files_alone(tmp_path, capsys, kind):
    folder, other = tmp_path / "mine", tmp_path / "other.yaml"
    folder.mkdir()
    path = folder / "demo.yaml"
    make = {"pipe": os.mkfifo, "folder": Path.mkdir}
    make.get(kind, lambda path: path.symlink_to(other))(path)
    with pytest.raises(SystemExit):
        main(["hparams", "--copy", str(folder)])
    assert "demo.yaml cannot be written: it is a" in capsys.readouterr().err
    assert not other.exists() and [*folder.iterdir()] == [path]


@pytest.mark.parametrize("on_path", [True, False])
@pytest.mark.parametrize(
    "gpu, name", [(True, "sinc_tdnn_robust"), (False, "quick")]
)
def test_the_command_to_train(monkeypatch, tmp_path, on_path, gpu, name):
    beside = Path(sys.executable).parent if on_path else tmp_path
    monkeypatch.setattr(shutil, "which", lambda name: str(beside / name))
    made = Provenance({"data_folder": "/d"}, "")
    program = "amsincnet" if on_path else f"{sys.executable} -m amsincnet_sb"
    options = f"--manifest={tmp_path} --data_folder=/d"
    command = f"{program} train {name} {options}"
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert corpus.training_command(tmp_path, made) == command
    how, what = corpus.training_advice(tmp_path, made)
    assert what.strip() == command and ("--minutes=N" in how) is not gpu


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("amsincnet tra", {"train "}),
        (
            "amsincnet train am_sincnet_m05",
            {"am_sincnet_m050", "am_sincnet_m055"},
        ),
        ("amsincnet evaluate --data", {"--data-folder "}),
    ],
)
def test_a_shell_completes(tmp_path, typed, completed):
    pytest.importorskip("argcomplete")
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": "answer"}
    asked |= {"COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    subprocess.run(
        [sys.executable, "-m", "amsincnet_sb"],
        env=environment(**asked, _ARGCOMPLETE_IFS="\n"),
        cwd=tmp_path,
        check=True,
    )
    assert {*(tmp_path / "answer").read_text().split("\n")} == completed
