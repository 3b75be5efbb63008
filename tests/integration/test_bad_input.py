"""Kinds of bad input: one sentence each, and nothing is written."""

import shutil

import numpy as np
import pytest
import soundfile

from amsincnet_sb import cli


@pytest.fixture
def place(finished, corpus, tmp_path, monkeypatch):
    """A folder with a model, recordings, and what is wrong with others."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "pretrained", "model")
    (tmp_path / "new").mkdir()
    shutil.copytree("model", "half")
    (tmp_path / "half" / "embedding_model.ckpt").unlink()
    paths = sorted(corpus.glob("TRAIN/*/*/SI*.WAV"))
    shutil.copy(paths[0], "good.wav")
    samples, rate = soundfile.read("good.wav")
    (tmp_path / "text.wav").write_text("This is not audio.")
    (tmp_path / "empty.wav").touch()
    soundfile.write("silent.wav", samples * 0, rate)
    samples[5] = np.nan
    soundfile.write("nan.wav", samples, rate, "FLOAT")
    for path in paths:
        folder = tmp_path / "single" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "one.wav")
    rows = [f"{p.stem},{p},{p.parent.name},train" for p in paths]
    manifests = {
        "columns.csv": ["name,who", "a.wav,ann"],
        "missing.csv": ["path,speaker", "none.wav,ann", "nor.wav,bob"],
        "twice.csv": ["id,path,speaker,split", rows[0], rows[0]],
        "train.csv": ["id,path,speaker,split", *dict.fromkeys(rows)],
    }
    for name, lines in manifests.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def prepare(source):
    return ["prepare", source, "--output", "manifests"]


CASES = {
    "no model": (["identify", "none", "good.wav"], "none is not a folder"),
    "empty folder": (["identify", "new", "good.wav"], "new holds no trained"),
    "half a model": (["identify", "half", "good.wav"], "embedding_model.ckpt"),
    "no candidates": (
        ["identify", "model", "good.wav", "--top", "0"],
        "--top is 0",
    ),
    "a folder of others": (["demo-corpus", "single"], "holds other files"),
    "not audio": (["identify", "model", "text.wav"], "text.wav: it cannot"),
    "empty file": (["enroll", "model", "a", "empty.wav"], "file is empty"),
    "NaN": (["verify", "model", "good.wav", "nan.wav"], "contains NaN"),
    "silence": (
        ["embed", "model", "silent.wav", "--output", "d.npz"],
        "silent.wav: it is silent",
    ),
    "unknown speaker": (["remove", "model", "zoe"], "'zoe' is not an enrolled"),
    "wrong columns": (prepare("columns.csv"), "no column gives the path"),
    "missing files": (prepare("missing.csv"), "none.wav and 1 more"),
    "duplicate ids": (prepare("twice.csv"), "occurs twice"),
    "one sentence for a speaker": (prepare("single"), "needs 2"),
    "no test sentence": (prepare("train.csv"), "no usable utterance to test"),
}


@pytest.mark.parametrize("kind", CASES)
def test_one_sentence_and_nothing_written(place, capsys, kind):
    arguments, complaint = CASES[kind]
    before = {p: p.is_file() and p.read_bytes() for p in place.rglob("*")}
    try:
        status = cli.main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    assert complaint in line and "Traceback" not in line
    after = {p: p.is_file() and p.read_bytes() for p in place.rglob("*")}
    assert after == before
