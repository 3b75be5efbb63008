"""The console command on a trained model and without one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from shell import status_of

import amsincnet_sb
from amsincnet_sb.cli import main
from amsincnet_sb.inference.identifier import SpeakerIdentifier

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def files(corpus):
    return sorted(map(str, corpus.glob("TRAIN/*/*/SI*.WAV")))[:3]


def test_a_pipe_gets_json(finished, files, tmp_path, capsys):
    flac = str(tmp_path / "again.flac")
    soundfile.write(flac, *soundfile.read(files[0], dtype="int16"))
    paths = [*files, flac]
    assert main(["identify", str(finished), *paths, "--top", "2"]) == 0
    captured = capsys.readouterr()
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert [answer["file"] for answer in answers] == paths
    who = SpeakerIdentifier.from_results(finished)
    for answer, path in zip(answers, [*files, files[0]]):
        for got, candidate in zip(
            answer["candidates"], who.identify(path, 2), strict=True
        ):
            # But for rounding: windows share a batch with other files'.
            expected = pytest.approx(candidate[1:], rel=1e-4, abs=1e-6)
            assert got["speaker"] == candidate.speaker
            assert (got["score"], got["share"]) == expected


def test_a_terminal_gets_a_table(finished, files, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["identify", str(finished), files[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == files[0] and len(lines) == 4  # three by default
    best = SpeakerIdentifier.from_results(finished).identify(files[0], 1)[0]
    assert lines[1].split()[0] == best.speaker
    assert f"{best.score:.3f}" in lines[1] and f"{best.share:.1%}" in lines[1]


def test_a_bad_file_does_not_keep_the_others_from_an_answer(
    finished, files, tmp_path, capsys
):
    text, missing = tmp_path / "text.wav", tmp_path / "missing.wav"
    text.write_text("This is not audio.")
    paths = [str(text), files[0], str(missing)]
    assert main(["identify", str(finished), *paths]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["file"] == files[0]
    about_text, about_missing = captured.err.splitlines()
    assert about_text.startswith(f"Error: {text}: it cannot be read as audio")
    assert about_missing.startswith(f"Error: {missing}: there is no such file")


def test_one_spelling(corpus, tmp_path, capsys):
    """Options take hyphens and underscores, in every command."""
    for folder in ("--data_folder", "--data-folder"):
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "gone", "--manifest=gone.csv", folder, "gone"])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("Error: gone is not a folder")


def test_the_module_is_the_command():
    command = [sys.executable, "-X", "importtime", "-m", "amsincnet_sb"]
    ended = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0
    assert ended.stdout.split() == [amsincnet_sb.__version__]
    # Help does not wait for what commands need.
    imported = {
        line.split("|")[-1].strip() for line in ended.stderr.split("\n")
    }
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "speechbrain"}


def test_the_old_name_of_a_command(tmp_path, capsys):
    model = FIXTURES / "model_raw_small.pkl"
    for name in ("import-released", "import-original"):
        assert main([name, str(model), str(tmp_path / name)]) == 0
        assert (tmp_path / name / "pretrained" / "config.json").is_file()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "import-released" not in capsys.readouterr().out


# Bad input: one sentence each, and nothing is written ------------------------


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
    text = (finished / "manifests" / "test.csv").read_text()
    lines = text.splitlines(keepends=True)
    # In "one" there are no pairs, which is told before it is read.
    for name, kept in (("header", 1), ("one", 2), ("moved", len(lines))):
        moved = "".join(lines[:kept]).replace(".WAV", ".XYZ")
        (tmp_path / f"{name}.csv").write_text(moved)
    (tmp_path / "corpus").symlink_to(corpus)
    samples, rate = soundfile.read("good.wav")
    (tmp_path / "text.wav").write_text("This is not audio.")
    (tmp_path / "empty.wav").touch()
    soundfile.write("silent.wav", samples * 0, rate)
    soundfile.write("wired.wav", np.stack([samples, -samples], 1), rate)
    (tmp_path / "earlier.jsonl").write_text("kept")
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


def evaluate(manifest):
    options = ["--manifest", manifest, "--data_folder", "corpus"]
    return ["evaluate", "model", *options, "--calibrate"]


CASES = {
    "no model": (["identify", "none", "good.wav"], "none is not a folder"),
    "an empty model": (["identify", "", "good.wav"], "the model is empty"),
    "empty output": (
        [*evaluate("moved.csv"), "--output", ""],
        "--output is empty",
    ),
    "empty folder of data": (
        ["evaluate", "model", "--manifest", "moved.csv", "--data-folder="],
        "--data-folder is empty",
    ),
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
    "moved": (evaluate("moved.csv"), "there is no such file"),
    "no utterance": (evaluate("header.csv"), "lists no utterance"),
    "no pair": (evaluate("one.csv"), "no two utterances of one speaker"),
    "kind of file": (
        ["embed", "model", "good.wav", "--output", "d.txt"],
        "d.txt",
    ),
    "threshold": (
        ["verify", "model", "good.wav", "good.wav", "--threshold", "nan"],
        "--threshold",
    ),
    "per cent for a share": (
        ["identify", "model", "good.wav", "--threshold", "90"],
        "--threshold is 90",
    ),
    "channels that cancel each other": (
        ["identify", "model", "wired.wav"],
        "wired.wav: its channels cancel each other; take one of them",
    ),
    "one output for two": (
        ["segments", "model", "good.wav", "--rttm", "x", "--csv", "new/../x"],
        "x is to be written twice",
    ),
    "an output without a name": (
        ["segments", "model", "good.wav", "--csv", "x", "--rttm", ""],
        "--rttm is empty",
    ),
    "a picture without a name": (
        ["segments", "model", "good.wav", "--plot", ""],
        "--plot is empty",
    ),
    "published filters": (
        ["plot", "filters", "model", "--published"],
        "--published is for curves and margins",
    ),
    "one input for two": (["verify", "model", "-", "-"], "- is one recording"),
    "a name of unknown voices": (
        ["enroll", "model", "unknown 1", "good.wav"],
        "what unknown voices are called",
    ),
    "no answer": (
        ["identify", "model", "text.wav", "--output", "earlier.jsonl"],
        "text.wav: it cannot",
    ),
    "device": (["identify", "model", "good.wav", "--device", "abc"], "'abc'"),
    "no filters": (["plot", "filters", "none"], "none is not a folder"),
    "no results": (["report", "new"], "new"),
    "no DET": (["plot", "det", "model"], "amsincnet evaluate"),
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
    status = status_of(arguments)
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    assert complaint in line and "Traceback" not in line
    after = {p: p.is_file() and p.read_bytes() for p in place.rglob("*")}
    assert after == before
