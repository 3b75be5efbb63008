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


def test_no_data_folder_in_any_configuration(refused, recipe):
    for name in ("am_sincnet_original.yaml", "sincnet.yaml", "demo.yaml"):
        sentence = refused(name, data_folder=None)
        assert "--data_folder=/path/to/TIMIT" in sentence
        assert "make demo" in sentence


def test_a_wrong_folder(refused, own, tmp_path, results):
    """Nothing is made where the corpus is wrong."""
    sentence = refused(data_folder=tmp_path / "TIMTI")
    assert str(tmp_path / "TIMTI") in sentence and "TRAIN" in sentence
    file = tmp_path / "timit.zip"
    file.write_bytes(b"PK")
    assert str(file) in refused(data_folder=file)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").touch()
    sentence = refused(data_folder=photos)
    assert "is not TIMIT" in sentence and "a.jpg" in sentence
    for kind in ("SX", "SI"):  # half of the sentences is missing
        missing = {p: p.read_bytes() for p in own.glob(f"TRAIN/*/*/{kind}*")}
        for path in missing:
            path.unlink()
        assert "SX" in refused(data_folder=own)
        for path, content in missing.items():
            path.write_bytes(content)
    for path in own.glob("TRAIN/*/*/*.WAV"):
        path.write_bytes(b"")
    assert "empty" in refused(data_folder=own)
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
    ],
)
def test_options_that_cannot_be(refused, options, words):
    sentence = refused(**options)
    assert all(word in sentence for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs to be without")
def test_options_for_a_gpu(refused):
    assert "fp16" in refused(precision="fp16")
    assert "no such GPU" in refused(device="cuda")


@pytest.mark.parametrize("margin", ["1.5", "-0.1", ".nan"])
@pytest.mark.parametrize(
    "name", ["am_sincnet_m005.yaml", "am_sincnet_original.yaml"]
)
def test_margin_out_of_range(refused, name, margin):
    sentence = refused(name, margin=margin)
    assert "margin" in sentence and margin.lstrip(".") in sentence


def test_a_started_run_on_another_corpus(recipe, refused, own, results):
    recipe("am_sincnet.yaml", results, data_folder=own)
    shutil.rmtree(next(own.glob("TRAIN/DR*/*")))
    sentence = refused(data_folder=own)
    assert "a run on other speakers" in sentence
    assert "--output_folder" in sentence


@pytest.mark.parametrize("kept", [0.5, 0.97, None])
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
    odd = {}

    def spoil(speaker, number, why):
        path = sorted(speakers[speaker].glob("SI*.WAV"))[number]
        name = f"{path.parts[-3]}-{path.parts[-2]}-{path.stem}".lower()
        odd[why] = name, str(path.relative_to(own))
        wave, _ = soundfile.read(path)
        return path, wave

    def rewrite(path, wave, rate=16000):
        soundfile.write(path, wave, rate, format="WAV")

    path, wave = spoil(0, 0, "stereo")
    rewrite(path, np.stack([wave, wave], 1))
    path, _ = spoil(0, 1, "no .WRD")
    path.with_suffix(".WRD").unlink()
    path, wave = spoil(0, 2, "8 kHz")
    rewrite(path, wave[::2], 8000)
    path, wave = spoil(1, 0, "silent")
    rewrite(path, 0 * wave)
    path, _ = spoil(1, 1, "not audio")
    path.write_bytes(b"This is not audio.")
    path, _ = spoil(1, 2, "cut short")
    path.write_bytes(path.read_bytes()[:20000])
    path, wave = spoil(2, 0, "too short")
    rewrite(path, wave[8000:9000])
    path.with_suffix(".WRD").unlink()
    path, wave = spoil(2, 1, "not a number")
    wave[100] = np.nan
    soundfile.write(path, wave, 16000, format="WAV", subtype="FLOAT")

    recipe("am_sincnet_m005.yaml", results, data_folder=own)
    assert recipe.state(results) == recipe.state(finished)
    before, after = recipe.sentences(finished), recipe.sentences(results)
    log = (results / "log.txt").read_text()

    reasons = {
        "silent": "it is silent",
        "not audio": "it cannot be read as audio",
        "cut short": "it is cut short",
        "not a number": "it contains NaN",
    }
    for why, reason in reasons.items():
        name, path = odd.pop(why)
        assert f"left out {path}: {reason}" in log
        assert name not in after and before.pop(name)
    assert f"speaker {speakers[1].name.lower()} has no test sentence" in log

    remarks = {
        "stereo": "2 channels, averaged",
        "no .WRD": "no .WRD file, taken whole",
        "8 kHz": "8000 Hz, resampled when read",
        "too short": "0.062 s of speech",
    }
    test = {u.id: u for u in read_manifest(results / "manifests" / "test.csv")}
    assert after.keys() == before.keys() == test.keys()
    for why, remark in remarks.items():
        name, path = odd[why]
        assert f"{path}: {remark}" in log
        assert all(
            math.isfinite(float(after[name][key]))
            for key in ("score", "margin", "frame_error")
        )
    # Two equal channels are one.
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {odd[why][0] for why in remarks} - {odd["stereo"][0]}


def test_an_unreadable_training_sentence(recipe, own, results):
    path = next(own.glob("TRAIN/*/*/SX*.WAV"))
    path.write_bytes(b"NIST_1A\n   1024\nnothing more")
    recipe("am_sincnet.yaml", results, data_folder=own, debug=True)
    assert len(read_manifest(results / "manifests" / "train.csv")) == 19
    log = (results / "log.txt").read_text()
    assert f"left out {path.relative_to(own)}: " in log
    assert "train: 4 speakers, 19 utterances" in log
