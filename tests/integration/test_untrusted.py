"""Files of a results folder from strangers: nothing in them is run."""

import json
import os
import pickle
import shutil
import zlib

import pytest
import torch
import yaml
from strangers import Call

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.training.checkpoints import CHECKSUMS
from amsincnet_sb.utils.errors import InputError

HPARAMS = "am_sincnet_m005.yaml"


BOMBS = {
    "pickle": lambda path, canary: path.write_bytes(
        pickle.dumps({"weight": Call(os.mkdir, str(canary))}, protocol=2)
    ),
    "torch": lambda path, canary: torch.save(
        {"weight": Call(os.mkdir, str(canary))}, path
    ),
    "yaml": lambda path, canary: path.write_text(
        f'!!python/object/apply:os.mkdir ["{canary}"]\n'
    ),
    "python": lambda path, canary: path.write_text(
        f"__import__('os').mkdir({str(canary)!r})\n"
    ),
}


def seal(folder):
    """Checksums as if the files had always been so."""
    sums = {
        path.name: [path.stat().st_size, zlib.crc32(path.read_bytes())]
        for path in sorted(folder.iterdir())
        if path.name != CHECKSUMS
    }
    (folder / CHECKSUMS).write_text(json.dumps(sums))


@pytest.fixture(scope="module")
def files(finished):
    """The files of a finished run, but for the yaml."""
    names = [
        str(path.relative_to(finished))
        for path in finished.rglob("*")
        if path.is_file()
        and path.suffix not in (".yaml", ".py", ".log", ".png")
        and path.name not in ("env.log", "log.txt", "train_log.txt")
    ]
    (checkpoint,) = (finished / "save").glob("CKPT*")
    names.append(f"save/{checkpoint.name}/CKPT.yaml")
    return sorted(names)


def test_the_bombs_would_go_off(tmp_path):
    path, canary = tmp_path / "bomb", tmp_path / "canary"
    for how, trust in {
        "pickle": lambda: pickle.loads(path.read_bytes()),
        "torch": lambda: torch.load(path, weights_only=False),
        "yaml": lambda: yaml.unsafe_load(path.read_text()),
        "python": lambda: exec(path.read_text()),
    }.items():
        BOMBS[how](path, canary)
        trust()
        canary.rmdir()


@pytest.mark.parametrize("how", BOMBS)
def test_a_results_folder_full_of_bombs(
    recipe, finished, files, tmp_path, monkeypatch, capsys, how
):
    """One file in its turn: it is used, or answered with one sentence."""
    canary, output = tmp_path / "canary", tmp_path / "results"
    for part in ("optimizer", "label_encoder", "pretrained/config.json"):
        assert any(part in name for name in files)
    # Files are read before the first step.
    monkeypatch.setattr(
        recipe.module.SpeakerBrain, "evaluate", lambda *_, **__: None
    )
    for name in files:
        shutil.copytree(finished, output)
        BOMBS[how](output / name, canary)
        folder = (output / name).parent
        if (folder / CHECKSUMS).exists() and not name.endswith(CHECKSUMS):
            seal(folder)
        capsys.readouterr()
        try:
            if name.startswith("pretrained"):
                SpeakerIdentifier.from_results(output)
            else:
                recipe(HPARAMS, output)
        except InputError as error:
            assert "\n" not in str(error), name
        except SystemExit as stopped:
            assert stopped.code == 2, name
            assert capsys.readouterr().err.count("Error: ") == 1
        assert not canary.exists(), name
        shutil.rmtree(output)
