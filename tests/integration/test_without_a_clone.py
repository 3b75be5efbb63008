"""The wheel's files alone, in a folder of the user's."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from recipe_process import ROOT

from amsincnet_sb.cli import main


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Types a command in a folder, with nothing of this checkout."""
    base = tmp_path_factory.mktemp("build")
    build = [sys.executable, "setup.py", "-q", "build", "-b", str(base)]
    subprocess.run(build, cwd=ROOT, check=True)
    (library,) = base.glob("lib*")
    variables = {**os.environ, "PYTHONPATH": str(library)}

    def run(folder, *command):
        """The output of a command that succeeds."""
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**variables, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    return run


def options_of(recipe, *more):
    """Those of a tiny training, into the default folder."""
    left_out = dict.fromkeys(("data_folder", "output_folder"))
    tiny = recipe.arguments("x", None, **left_out, number_of_epochs=1)
    return [*tiny[1:], *more]


def test_a_sweep_of_copied_files(typed, recipe, corpus, tmp_path):
    data = ["amsincnet_sb", "demo-corpus", "generated", "--speakers=1"]
    assert "Generated speech" in typed(tmp_path, *data)
    typed(tmp_path, "amsincnet_sb", "hparams", "--copy", ".")
    os.symlink(corpus, tmp_path / "TIMIT")
    sweep = ["./am_sincnet_m010.yaml", "--margins=0.2", "--seeds=1", "--"]
    options = options_of(recipe, "--data-folder=TIMIT")
    typed(tmp_path, "amsincnet_sb", "sweep", *sweep, *options)
    table = (tmp_path / "results" / "sweep" / "margins.csv").read_text()
    assert table.splitlines()[1].startswith("am_sincnet_m010,0.2,1234,")
    made_of = next(tmp_path.glob("results/**/hyperparams.yaml")).read_text()
    assert f"# {tmp_path}/am_sincnet_m010.yaml" in made_of.splitlines()


def test_train_is_the_recipe(recipe, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["amsincnet"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    os.symlink(corpus, "TIMIT")
    options = options_of(recipe, "--data-folder=TIMIT")
    assert main(["train", "am_sincnet_m005", *options]) == 0
    results = tmp_path / "results" / "am_sincnet" / "m0.05" / "1234"
    assert (results / "pretrained" / "config.json").is_file()


def test_librispeech_is_prepared(typed, tmp_path):
    noise = np.random.default_rng(0)
    for speaker in ("19", "26"):
        chapter = tmp_path / "LibriSpeech" / "dev-clean" / speaker / "198"
        chapter.mkdir(parents=True)
        for number, seconds in enumerate((14, 9, 3)):
            path = chapter / f"{speaker}-198-{number:04}.flac"
            wave = noise.uniform(-0.5, 0.5, seconds * 16000)
            soundfile.write(path, wave, 16000)
    command = ["prepare-librispeech", "LibriSpeech", "manifests"]
    said = typed(tmp_path, "amsincnet_sb", *command)
    assert f"--manifest={tmp_path / 'manifests'}" in said
    rows = (tmp_path / "manifests" / "test.csv").read_text().splitlines()
    assert len(rows) == 1 + 2
