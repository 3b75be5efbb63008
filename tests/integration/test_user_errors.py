"""What people get wrong: one clear sentence, or handled and reported."""

import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.dataio.manifest import read_manifest


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def own(corpus, tmp_path):
    """A copy of the corpus to be spoiled."""
    return shutil.copytree(corpus, tmp_path / "own" / "TIMIT")


def test_no_data_folder(recipe, results):
    """As a process: the exit status, and nothing but the sentence."""
    arguments = recipe.arguments("am_sincnet_m005.yaml", results)
    ended = subprocess.run(
        [sys.executable, "train.py", arguments[0]],
        cwd=recipe.folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "--data_folder=/path/to/TIMIT" in last and "`make demo`" in last
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (recipe.folder / "results" / "am_sincnet" / "m0.05").exists()


def test_a_wrong_folder(refused, tmp_path, results):
    """Nothing is made where the corpus is wrong."""
    sentence = refused(data_folder=tmp_path / "TIMTI")
    assert str(tmp_path / "TIMTI") in sentence and "TRAIN" in sentence
    assert not results.exists()


def test_unknown_key_in_an_overlay(refused, tmp_path, recipe):
    base = recipe.folder / "hparams" / "am_sincnet.yaml"
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        f"recipe: !include:{base}\n    margin: 0.1\n    margim: 0.2\n"
    )
    sentence = refused(overlay)
    assert f"{overlay} (line 3)" in sentence
    assert "`margim`" in sentence and "`margin`" in sentence


@pytest.mark.parametrize(
    "options, words",
    [
        ({"all_speakers": "True"}, ["no TEST"]),
        ({"validation_sentences": 5}, ["validation_sentences"]),
        ({"number_of_epoch": 3}, ["`number_of_epoch`", "`number_of_epochs`"]),
        ({"test_only": True}, ["/results/save", "--test_only"]),
        ({"window": 60}, ["window"]),
        ({"jit": True}, ["use --compile"]),
        ({"embedding_size": 9}, ["make them equal"]),
        ({"batch_size": 1}, ["at least 2"]),
        ({"batches_per_epoch": 0}, ["at least 1"]),
        ({"margin": 1.5}, ["margin", "1.5"]),
        ({"margin": ".nan"}, ["margin", "nan"]),
    ],
)
def test_options_that_cannot_be(refused, options, words):
    sentence = refused(**options)
    assert all(word in sentence for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs to be without")
def test_options_for_a_gpu(refused):
    assert "fp16" in refused(precision="fp16")
    assert "no such GPU" in refused(device="cuda")


def test_a_started_run_on_another_corpus(recipe, refused, own, results):
    recipe("am_sincnet.yaml", results, data_folder=own)
    shutil.rmtree(next(own.glob("TRAIN/DR*/*")))
    sentence = refused(data_folder=own)
    assert "a run on other speakers" in sentence
    assert "--output_folder" in sentence


@pytest.mark.parametrize("kept", [0.5, None])
def test_a_damaged_list_of_speakers(recipe, refused, finished, results, kept):
    shutil.copytree(finished, results)
    path = results / "save" / "label_encoder.txt"
    text = path.read_text(encoding="utf-8")
    damaged = "\0\1" if kept is None else text[: int(kept * len(text))]
    path.write_text(damaged, encoding="utf-8")
    assert f"{path} is damaged" in refused("am_sincnet_m005.yaml")
    path.unlink()
    recipe("am_sincnet_m005.yaml", results, whole=True)
    assert path.read_text(encoding="utf-8") == text


def test_odd_recordings(recipe, own, finished, results):
    """Test sentences are spoiled, so training must be that of `finished`."""
    speakers = sorted(path for path in own.glob("TRAIN/*/*") if path.is_dir())
    names = {}

    def spoil(speaker, number, why):
        path = sorted(speakers[speaker].glob("SI*.WAV"))[number]
        name = f"{path.parts[-3]}-{path.parts[-2]}-{path.stem}".lower()
        names[why] = name, str(path.relative_to(own))
        return path, *soundfile.read(path)

    path, wave, rate = spoil(0, 0, "2 channels, averaged")
    soundfile.write(path, np.stack([wave, wave], 1), rate, format="WAV")
    path, wave, rate = spoil(0, 1, "8000 Hz, resampled when read")
    soundfile.write(path, wave[::2], 8000, format="WAV")
    for number in range(3):
        path, *_ = spoil(1, number, f"unreadable {number}")
        path.write_bytes(b"This is not audio.")
    path, wave, rate = spoil(2, 0, "0.062 s of speech")
    soundfile.write(path, wave[8000:9000], rate, format="WAV")
    path.with_suffix(".WRD").unlink()

    recipe("am_sincnet_m005.yaml", results, data_folder=own)
    assert recipe.state(results) == recipe.state(finished)
    before, after = recipe.sentences(finished), recipe.sentences(results)
    log = (results / "log.txt").read_text()
    for number in range(3):
        name, path = names.pop(f"unreadable {number}")
        assert f"left out {path}: it cannot be read as audio" in log
        assert name not in after and before.pop(name)
    assert f"speaker {speakers[1].name.lower()} has no test sentence" in log

    test = {u.id: u for u in read_manifest(results / "manifests" / "test.csv")}
    assert after.keys() == before.keys() == test.keys()
    for remark, (name, path) in names.items():
        assert f"{path}: {remark}" in log
        for key in ("score", "margin", "frame_error"):
            assert math.isfinite(float(after[name][key]))
    # Two equal channels are one.
    changed = {name for name in after if after[name] != before[name]}
    stereo, *others = (name for name, _ in names.values())
    assert changed == set(others)
