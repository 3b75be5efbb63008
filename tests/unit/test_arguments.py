"""The command line: paths are text, all else is yaml, each by itself."""

import io
import os

import pytest
from hyperpyyaml import load_hyperpyyaml

from amsincnet_sb.training.arguments import parse_arguments
from amsincnet_sb.training.hparams import (
    load_recipe,
    plain_options,
    save_hyperparams,
)
from amsincnet_sb.utils.errors import InputError

NAMES = [
    *("run #2", "2024_11_28", "0123", "x: y", "null", "[a]", "true", "{x}"),
    *("1e3", "yes", "12:30:45", "(3, 4)", "!ref <seed>", "<seed>", "5 #"),
    *("a ", " a", "a=b", "-", "--x", "'", '"', "\\", "%x", "@x", "`x", "- x"),
    *("? x", "|", ">", "&a", "*a", "2024-11-28", ".5", ".inf", "=", "<<"),
    *("a\nb", "a\tb", "é", "\u2028", "\U0001f600", "3 * 4", "'a' #", "$x"),
    *("a  b " * 30, "!new:list", "---", "text0n", "a,b", "C:\\x", "a~b"),
]
FILE = """\
seed: 7
experiment: x
output_folder: !ref results/<experiment>/<seed>
save_folder: !ref <output_folder>/save
data_folder: !PLACEHOLDER
manifest: ""
counter: !new:collections.Counter
    folder: !ref <save_folder>
both: !ref <data_folder>:<output_folder>
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("included", [False, True])
def test_a_path_is_text(file, tmp_path, monkeypatch, name, included):
    """Wherever it goes, and in the yaml of the finished run."""
    if included:
        file = str(tmp_path / "b.yaml")
        (tmp_path / "b.yaml").write_text("recipe: !include:a.yaml\n    seed: 8")
    monkeypatch.chdir(tmp_path)
    folder = f"./{name}"
    *_, overrides = parse_arguments(
        [file, f"--output_folder={folder}", f"--data_folder={name}"]
    )
    right = {
        "output_folder": folder,
        "data_folder": name,
        "save_folder": f"{folder}/save",
        "both": f"{name}:{folder}",
        "counter": {"folder": f"{folder}/save"},
    }

    def seen(options):
        """What must be as it was typed."""
        options = options.get("recipe", options)
        return {key: options[key] for key in right}

    assert seen(plain_options(file, overrides)) == right
    assert seen(load_recipe(file, overrides)) == right
    save_hyperparams(file, overrides)
    written = os.path.join(folder, "hyperparams.yaml")
    if len(folder) < 80:  # HyperPyYAML folds longer ones
        assert seen(load_recipe(written, {})) == right
        with open(written, encoding="utf-8") as text:
            assert seen(load_hyperpyyaml(io.StringIO(text.read()))) == right


def test_up_from_a_link(file, tmp_path, monkeypatch):
    """Is up from where it leads; without a link a path stays as it is."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path)
    for typed, right in (
        ("link/../x", str(tmp_path / "real" / "x")),
        ("real/../x", "real/../x"),
        ("link/x", "link/x"),
    ):
        *_, overrides = parse_arguments([file, f"--output_folder={typed}"])
        assert overrides["output_folder"] == right


def test_the_home_folder(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    line = [file, "--output_folder=~/r", "--data_folder", "~", "--manifest=./~"]
    *_, overrides = parse_arguments([*line, "--experiment=~"])
    assert overrides == {
        "output_folder": "/home/ann/r",
        "data_folder": "/home/ann",
        "manifest": "./~",
        "experiment": "~",
    }


def test_experiments_are_text(file):
    overrides = {"experiment": "2024_11_28", "data_folder": "d"}
    assert plain_options(file, overrides)["output_folder"] == (
        "results/2024_11_28/7"
    )


def test_values_run_options_and_the_file(file):
    name, run_opts, overrides = parse_arguments(
        ["--lr", "-1", "--device", "cpu", file, "--sizes=[1, {a: 2}]"]
        + ["--precision=fp16", "--debug", "--on=True", "--text=a=b"]
    )
    assert (name, run_opts.device, run_opts.debug) == (file, "cpu", True)
    assert run_opts.precision == "fp16"
    assert overrides == {
        "lr": -1,
        "sizes": [1, {"a": 2}],
        "on": True,
        "text": "a=b",
    }


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--a=[1"], "--a=[1 cannot be read as yaml"),
        (["--a=1: 2: 3"], "--a=1: 2: 3 cannot be read"),
        (["--a=2024-13-01"], "month must be"),
        (["--a="], "--a without a value"),
        (["--a", "--b=1"], "--a without a value"),
        (["--a=null"], "--a without a value"),
        (["--output_folder="], "--output_folder without a value"),
        (["--a=1", "--a=2"], "--a twice"),
        (["b.yaml"], "'b.yaml' where --key=value was expected"),
        (["--output_folder=\udcff"], "not of UTF-8"),
    ],
)
def test_what_cannot_be_read(arguments, words):
    with pytest.raises(InputError) as error:
        parse_arguments(["a.yaml", *arguments])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_finished_runs_file_is_not_changed(file, tmp_path):
    """Its values are spelled out, so that only one of them would change."""
    overrides = {"output_folder": str(tmp_path / "r"), "data_folder": "d"}
    save_hyperparams(file, overrides)
    written = str(tmp_path / "r" / "hyperparams.yaml")
    including = tmp_path / "c.yaml"
    including.write_text("recipe: !include:r/hyperparams.yaml\n    seed: 8")
    for path, changes in (
        (written, {"seed": 8}),
        (written, {"experiment": "y"}),
        (written, {"save_folder": "/elsewhere"}),
        (str(including), {}),
    ):
        with pytest.raises(InputError, match="spelled out") as error:
            plain_options(path, changes)
        assert str(error.value).endswith(f"it was made of, {file}.")
    same = {"seed": 7, "data_folder": "e", "output_folder": "/new"}
    options = plain_options(written, same)
    assert options["counter"]["folder"] == options["save_folder"] == "/new/save"
