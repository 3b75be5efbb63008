"""The console command on a trained model and without one."""

import json

import pytest
import soundfile

from amsincnet_sb import cli
from amsincnet_sb.cli import main
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def files(corpus):
    return sorted(map(str, corpus.glob("TRAIN/*/*/SI*.WAV")))[:3]


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    return line


def same_candidates(one, other):
    """But for rounding: windows share a batch with those of other files."""
    assert [c["speaker"] for c in one] == [c["speaker"] for c in other]
    for key in ("score", "share"):
        assert [c[key] for c in one] == pytest.approx(
            [c[key] for c in other], rel=1e-4, abs=1e-6
        )


def test_a_pipe_gets_json(finished, files, capsys):
    assert main(["identify", str(finished), *files, "--top", "2"]) == 0
    captured = capsys.readouterr()
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert [answer["file"] for answer in answers] == files
    who = SpeakerIdentifier.from_results(finished)
    for answer in answers:
        expected = who.identify(answer["file"], 2)
        same_candidates(answer["candidates"], [c._asdict() for c in expected])
        first, second = answer["candidates"]
        assert second["score"] <= first["score"] <= 0


def test_a_terminal_gets_a_table(finished, files, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["identify", str(finished), files[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == files[0] and len(lines) == 4  # three by default
    best = SpeakerIdentifier.from_results(finished).identify(files[0], 1)[0]
    assert lines[1].split()[0] == best.speaker
    assert f"{best.score:.3f}" in lines[1] and f"{best.share:.1%}" in lines[1]


def test_other_formats(finished, files, tmp_path, capsys):
    wave, rate = soundfile.read(files[0], dtype="int16")
    flac = tmp_path / "again.flac"
    soundfile.write(flac, wave, rate)
    assert main(["identify", str(finished), files[0], str(flac)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    same_candidates(first["candidates"], second["candidates"])


def test_a_bad_file_does_not_keep_the_others_from_an_answer(
    finished, files, tmp_path, capsys
):
    text = tmp_path / "text.wav"
    text.write_text("This is not audio.")
    missing = tmp_path / "missing.wav"
    paths = [str(text), files[0], str(missing)]
    assert main(["identify", str(finished), *paths]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["file"] == files[0]
    about_text, about_missing = captured.err.splitlines()
    assert about_text.startswith(f"Error: {text}: it cannot be read as audio")
    assert about_missing.startswith(f"Error: {missing}: there is no such file")


def test_no_model(tmp_path, files, capsys):
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert str(missing) in refused(["identify", missing, files[0]], capsys)
    sentence = refused(["identify", empty, files[0]], capsys)
    assert f"{empty} holds no trained model" in sentence


def test_no_candidates(finished, files, capsys):
    arguments = ["identify", finished, files[0], "--top", "0"]
    assert "--top is 0" in refused(arguments, capsys)


def test_demo_corpus(tmp_path, capsys):
    folder = tmp_path / "made"
    arguments = ["demo-corpus", str(folder), "--speakers", "1", "--seed", "3"]
    assert main(arguments) == 0
    assert str(folder) in capsys.readouterr().out
    made = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sum(p.suffix == ".WAV" for p in made) == 8
    # Again: left as it is.
    assert main(arguments) == 0
    assert {p: p.read_bytes() for p in made} == made

    capsys.readouterr()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    sentence = refused(["demo-corpus", tmp_path / "mine"], capsys)
    assert "holds other files" in sentence


def test_scripts_of_the_recipes(monkeypatch, tmp_path):
    module = cli._recipe_module("TIMIT/timit_prepare.py")
    assert callable(module.prepare_timit)
    # As where pip installed the package alone.
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "package" / "cli.py"))
    with pytest.raises(InputError, match="a clone of the repository"):
        cli._recipe_module("TIMIT/timit_prepare.py")
