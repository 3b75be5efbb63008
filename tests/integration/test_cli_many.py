"""Commands with many recordings, and with outputs that cannot be written."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
from shell import status_of

from amsincnet_sb.commands import scores


@pytest.fixture
def place(finished, corpus, tmp_path, monkeypatch):
    """A model, a folder of three recordings, of which one is none, and b.wav."""
    monkeypatch.chdir(tmp_path)
    parts = shutil.ignore_patterns("save", "*.png")
    shutil.copytree(finished, "model", ignore=parts)
    paths = sorted(corpus.glob("TRAIN/*/*/SI*.WAV"))
    (tmp_path / "all" / "below").mkdir(parents=True)
    shutil.copy(paths[0], "all/a.wav")
    shutil.copy(paths[1], "all/below/c.WAV")
    (tmp_path / "all" / "b.wav").write_text("text")
    shutil.copy(paths[0], "b.wav")
    return tmp_path


@pytest.fixture
def run(place, capsys):
    """Status, JSON lines, and lines of standard error of a command."""

    def command(*arguments):
        capsys.readouterr()
        status = status_of(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        out = [json.loads(line) for line in captured.out.splitlines()]
        return status, out, captured.err.splitlines()

    return command


def contents(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


GOOD = ["all/a.wav", "all/below/c.WAV"]


def test_identify_answers_about_the_others(run):
    status, answers, (complaint,) = run("identify", "model", "all", "b.wav")
    assert status == 2 and complaint.startswith("Error: all/b.wav: it cannot")
    assert [answer["file"] for answer in answers] == [*GOOD, "b.wav"]
    for answer in answers:
        found = [c["probability"] for c in answer["candidates"]]
        assert found == sorted(found, reverse=True) and sum(found) <= 1
        assert found == [c["share"] for c in answer["candidates"]]


def test_embed_writes_the_others(run, place):
    files = ["none.wav", "all"]
    status, (answer,), err = run("embed", "model", *files, "--output", "e.npz")
    assert status == 2 and answer["files"] == 2
    assert [line.split(": ")[1] for line in err] == ["none.wav", "all/b.wav"]
    with np.load("e.npz") as table:
        assert table["files"].tolist() == GOOD
        assert table["embeddings"].shape == (2, answer["size"])
    before = contents(place)
    found = run("embed", "model", "all/b.wav", "--output", "f.npz")
    assert found[:2] == (2, []) and contents(place) == before


def test_a_name_that_is_no_text(run, place):
    """Its bytes are written as they are."""
    name = os.fsdecode(b"caf\xe9.wav")
    shutil.copy("b.wav", name)
    status, _, err = run("embed", "model", name, "--output", "e.csv")
    assert (status, err) == (0, [])
    assert b"caf\xe9.wav" in (place / "e.csv").read_bytes()
    outputs = ["--rttm", "e.rttm", "--csv", "s.csv", "--labels", "e.txt"]
    assert run("segments", "model", name, *outputs)[::2] == (0, [])


def test_enrol_from_the_others(run, place):
    status, out, err = run("enroll", "model", "zoe", "all")
    answer = {"enrolled": "zoe", "files": 2, "speakers": 5}
    assert (status, out) == (2, [answer]) and "all/b.wav" in err[0]
    before = contents(place)
    assert run("enroll", "model", "eve", "all/b.wav")[:2] == (2, [])
    assert contents(place) == before


def test_standard_input(run, place, monkeypatch):
    _, (expected,), _ = run("identify", "model", "b.wav")
    for name in ("-", "/dev/stdin"):
        stream = io.TextIOWrapper(io.BytesIO((place / "b.wav").read_bytes()))
        monkeypatch.setattr("sys.stdin", stream)
        assert run("identify", "model", name) == (
            0,
            [{**expected, "file": name}],
            [],
        )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    status, _, (line,) = run("verify", "model", "-", "b.wav")
    assert status == 2 and "-: the file is empty" in line
    status, _, (line,) = run("verify", "model", "all", "b.wav")
    assert status == 2 and "two recordings" in line


EVALUATE = "evaluate", "model", "--manifest", "model/manifests/test.csv"
OUTPUTS = {
    "evaluate": [*EVALUATE, "--data-folder=all"],
    "evaluate elsewhere": [*EVALUATE, "--data-folder=all", "--output=model"],
    "report": ["report", "model"],
    "plot": ["plot", "filters", "model"],
    "embed": ["embed", "model", "b.wav", "--output", "model/e.npz"],
    "enroll": ["enroll", "model", "zoe", "b.wav"],
    "remove": ["remove", "model", "zoe"],
    "export": ["export", "model", "model/m.onnx"],
    "prepare": ["prepare", "all", "--output", "model"],
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_folder_that_cannot_be_written_is_refused_first(
    run, place, monkeypatch, kind
):
    # As for root, on a file system that is mounted to be read.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(soundfile, "SoundFile", None)  # no work before
    before = contents(place)
    status, out, (line,) = run(*OUTPUTS[kind])
    assert (status, out) == (2, [])
    assert "cannot be written: " in line and "no folder that may be" in line
    assert contents(place) == before


LINKED = {
    "embed": (["embed", "model", "b.wav", "--output"], "e.csv"),
    "report": (["report", "model", "--output"], "r.html"),
    "plot": (["plot", "filters", "model", "--output"], "p.png"),
    "export": (["export", "model"], "m.onnx"),
    "export a folder": (["export", "model"], "m"),
}


@pytest.mark.parametrize("kind", LINKED)
@pytest.mark.parametrize("target", ["mine", "none", "/dev/null"])
def test_a_link_is_not_replaced(run, place, kind, target):
    command, name = LINKED[kind]
    (place / "mine").write_text("mine")
    (place / name).symlink_to(target)
    before = contents(place)
    status, out, (line,) = run(*command, name)
    assert (status, out) == (2, [])
    assert f"{name} cannot be written: it is a link" in line or "exists" in line
    assert contents(place) == before and (place / name).is_symlink()


def test_an_input_is_not_replaced(run, place):
    shutil.copy("b.wav", "b.csv")
    shutil.copy("model/metrics.jsonl", "m.png")
    before = contents(place)
    for command, word in (
        (["embed", "model", "b.csv", "--output", "./b.csv"], "an input"),
        (["plot", "curves", "m.png", "--output", "m.png"], "an input"),
        (["report", "model", "--output", "model/metrics.jsonl"], ".html"),
        (
            ["plot", "curves", "model", "--output", "model/metrics.jsonl"],
            ".png",
        ),
        (
            ["prepare", "model/manifests/train.csv"]
            + ["--output", "model/manifests", "--data-folder=all"],
            "an input",
        ),
    ):
        status, _, (line,) = run(*command)
        assert status == 2 and word in line
    assert contents(place) == before


def test_an_evaluation_is_told_and_kept_elsewhere(run, place, corpus):
    data = f"--data-folder={corpus}"
    before = contents(place / "model")
    status, (told,), _ = run(*EVALUATE, data, "--output", "new/folder")
    assert status == 0 and contents(place / "model") == before
    kept = json.loads((place / "new/folder/evaluation.json").read_text())
    kept["verification"].pop("det")
    assert kept == told
    # A disk that fills up meanwhile costs the file alone.
    (place / "new" / "folder" / "evaluation.json").unlink()
    os.mkdir("new/folder/evaluation.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "check_output", lambda *_: None)
        found = run(*EVALUATE, data, "--output", "new/folder")
    assert found[0] == 2 and found[1] == [told]
    assert "evaluation.json cannot be written" in found[2][-1]


PIPES = ["config.json", "embedding_model.ckpt", "classifier.ckpt"]
PIPES += ["enrolled.npz", "calibration.json", "model.safetensors"]


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_in_a_model_blocks_nothing(run, place, name):
    path = place / "model" / "pretrained" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    status, out, (line,) = run("identify", "model", "b.wav")
    assert (status, out) == (2, []) and "is a pipe and not a file" in line


def test_a_report_shows_nothing_from_elsewhere(run, place):
    (place / "secret").write_text("secret")
    for name in ("hyperparams.yaml", "sentences.csv", "evaluation.json"):
        path = place / "model" / name
        before = path.read_text() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to("../secret")
        status, _, (line,) = run("report", "model")
        assert status == 2 and f"{name} is a link out of the folder" in line
        path.unlink()
        if before is not None:
            path.write_text(before)
    assert not (place / "model" / "report.html").exists()
