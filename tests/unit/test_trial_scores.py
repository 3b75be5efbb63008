"""verify --trials: a score for each pair of a list, in its tools' form."""

import json
import os

import pytest
import soundfile
from shell import status_of

from amsincnet_sb import cli

PAIRS = [("a1", "a2", 1), ("a1", "b1", 0), ("b1", "b2", 1), ("b2", "a2", 0)]


@pytest.fixture
def place(saved, voice, tmp_path, monkeypatch):
    """Recordings of two voices, also as a Kaldi data folder."""
    folder = tmp_path / "audio {0}"
    (folder / "x").mkdir(parents=True)
    (tmp_path / "kaldi").mkdir()
    scp = utt2spk = ""
    for name, pitch, seed in (
        ("a1", 300, 1),
        ("a2", 300, 2),
        ("b1", 700, 3),
        ("b2", 700, 4),
    ):
        path = folder / "x" / f"{name}.wav"
        soundfile.write(path, voice(pitch, seed=seed), 16000)
        scp += f"{name} {path}\n"
        utt2spk += f"{name} {name[0]}\n"
    (tmp_path / "kaldi" / "wav.scp").write_text(scp)
    (tmp_path / "kaldi" / "utt2spk").write_text(utt2spk)
    monkeypatch.chdir(tmp_path)
    return saved


def run(capsys, text, data="audio {0}"):
    """Status, answer, complaint and score file for the text of a list."""
    with open("trials", "w") as file:
        file.write(text)
    options = ["--trials=trials", f"--data_folder={data}", "--output=s {}.txt"]
    capsys.readouterr()
    status = status_of(["verify", "pretrained", *options])
    out, err = capsys.readouterr()
    rows = None
    if os.path.exists("s {}.txt"):
        with open("s {}.txt") as file:
            rows = [line.split() for line in file]
        os.unlink("s {}.txt")
    return status, json.loads(out) if out else None, err, rows


def paths(pair):
    return [f"x/{name}.wav" for name in pair[:2]]


@pytest.mark.parametrize("form", ["VoxCeleb", "Kaldi", "unlabelled"])
def test_scores_are_those_of_verify(place, capsys, form):
    label = {1: "target", 0: "nontarget"}
    lines, data = [], "audio {0}"
    for pair in PAIRS:
        a, b = paths(pair)
        if form == "Kaldi":
            a, b, data = *pair[:2], "kaldi"
        lines.append(
            {
                "VoxCeleb": f"{pair[2]} {a} {b}",
                "Kaldi": f"{a} {b} {label[pair[2]]}",
                "unlabelled": f"{a} {b}",
            }[form]
        )
    status, answer, err, rows = run(capsys, "\n".join(lines), data)
    assert (status, err, answer["trials"]) == (0, "", 4)
    assert answer.get("eer", 0) == 0
    assert ("min_dcf" in answer) == (form != "unlabelled")
    for row, line, pair in zip(rows, lines, PAIRS, strict=True):
        at = 0 if form == "VoxCeleb" else 2
        score = float(row.pop(at))
        assert row == [w for w in line.split() if w not in ("0", "1")][:2]
        a, b = (f"audio {{0}}/{path}" for path in paths(pair))
        assert score == pytest.approx(place.verify(a, b, 0).score, abs=2e-6)


def test_a_recording_that_cannot_be_used(place, capsys):
    text = "x/a1.wav x/no.wav\nx/a1.wav x/a2.wav\n"
    status, answer, err, rows = run(capsys, text)
    assert status == 2 and answer["trials"] == 1 and len(rows) == 1
    assert "no.wav: there is no such file" in err and err.count("Error") == 1


@pytest.mark.parametrize(
    "text, data, words",
    [
        ("a b\n1 a b\n", ".", "line 2: this trial is VoxCeleb and those"),
        ("2 a b\n", ".", "line 1: a trial is '1 a b'"),
        ("\n", ".", "no trials"),
        ("a b\n", "none", "none is not a folder"),
        ("a1 zoe\n", "kaldi", "wav.scp: it has no zoe"),
        ("x/no.wav x/no.wav\n", "audio {0}", "no such file"),
    ],
)
def test_lists_that_are_refused(place, capsys, text, data, words):
    status, answer, err, rows = run(capsys, text, data)
    assert (status, answer, rows) == (2, None, None) and words in err


def test_no_recording_is_replaced(place, capsys):
    for output in ("trials", "audio {0}/x/a1.wav"):
        with open("trials", "w") as file:
            file.write("x/a1.wav x/a2.wav\n")
        line = ["--trials=trials", "--data-folder=audio {0}"]
        with pytest.raises(SystemExit):
            cli.main(["verify", "pretrained", *line, f"--output={output}"])
        assert "cannot be written" in capsys.readouterr().err
