"""A person's own recordings: prepared, trained on, and recognised."""

import json
import os
import shlex
import shutil

import numpy as np
import pytest
import soundfile

from amsincnet_sb.cli import main
from amsincnet_sb.dataio.manifest import read_manifest


@pytest.fixture(scope="module")
def recordings(corpus, tmp_path_factory):
    """The generated speakers again, as people keep recordings."""
    root = tmp_path_factory.mktemp("own") / "my recordings"
    speakers = sorted(p for p in corpus.glob("TRAIN/*/*") if p.is_dir())
    for person, speaker in zip(("Ann", "Bob", "Cem", "Dora"), speakers):
        for i, path in enumerate(sorted(speaker.glob("S[IX]*.WAV"))):
            wave, rate = soundfile.read(path)
            file = root / person / f"day {i // 4}" / f"{i}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            if i == 1:
                soundfile.write(file.with_suffix(".flac"), wave, rate)
            elif i == 2:
                soundfile.write(file, np.stack([wave, wave], 1), rate)
            elif i == 3:
                soundfile.write(file, wave[::2], rate // 2)
            else:
                soundfile.write(file, wave, rate)
    (root / "Ann" / "broken.wav").write_text("This is no audio.")
    return root


@pytest.fixture(scope="module")
def prepared(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "manifests"
    assert main(["prepare", str(recordings), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(recipe, recordings, prepared, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "results"
    options = {"data_folder": recordings, "manifest": prepared}
    return recipe("am_sincnet_m035.yaml", output, **options)


def test_the_summary(recordings, tmp_path, capsys):
    folder = tmp_path / "manifests"
    arguments = ["prepare", recordings, "--output", folder]
    arguments += ["--validation-sentences", 1, "--test-fraction", 0.4]
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert f"{recordings}: folder with a folder for each speaker\n" in out
    assert "  train: 4 speakers, 16 utterances, 0.0" in out
    assert "  test: 4 speakers, 12 utterances, 0.0" in out
    assert "  valid: 4 speakers, 4 utterances, 0.0" in out
    assert "left out Ann/broken.wav: it cannot be read as audio" in out
    assert "noted utterances" not in out
    assert "utterances at 8000 Hz, resampled when read: 4" in out
    assert "utterances with 2 channels, averaged: 4" in out
    program, script, hparams, *options = shlex.split(out.splitlines()[-1])
    assert (program, script) == ("python", "train.py")
    assert options == [f"--manifest={folder}", f"--data_folder={recordings}"]


def test_a_name_that_is_not_unicode(recordings, tmp_path, capsys):
    root = shutil.copytree(recordings, tmp_path / "own")
    os.rename(root / "Ann" / "broken.wav", os.fsencode(root) + b"/Ann/\xff.wav")
    arguments = ["prepare", str(root), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "left out Ann/\\udcff.wav: it cannot be read" in out
    out.encode()


def test_the_command_trains(recipe, prepared, trained, recordings):
    """All of it is of the manifests, and none of TIMIT."""
    test = read_manifest(prepared / "test.csv")
    assert len(test) == 8 and len(read_manifest(prepared / "train.csv")) == 24
    assert recipe.sentences(trained).keys() == {u.id for u in test}
    records = recipe.metrics(trained)
    assert [r["epoch"] for r in records if r["split"] == "test"] == [1, 2]
    assert not (trained / "manifests").exists()
    log = (trained / "log.txt").read_text()
    assert "train: 4 speakers, 24 utterances" in log
    assert "left out Ann/broken.wav" in log
    config = json.loads((trained / "pretrained" / "config.json").read_text())
    assert config["speakers"] == ["Ann", "Bob", "Cem", "Dora"]


def test_a_file_is_identified(trained, recordings, capsys):
    file = str(recordings / "Bob" / "day 0" / "1.flac")
    assert main(["identify", str(trained), file, "--top", "4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    names = {c["speaker"] for c in json.loads(line)["candidates"]}
    assert names == {"Ann", "Bob", "Cem", "Dora"}


def test_held_out_utterances_are_watched(recipe, recordings, tmp_path):
    folder = tmp_path / "manifests"
    arguments = ["prepare", str(recordings), "--output", str(folder)]
    main([*arguments, "--validation-sentences", "1"])
    options = {"data_folder": recordings, "manifest": folder}
    output = recipe("am_sincnet.yaml", tmp_path / "results", **options)
    splits = [record["split"] for record in recipe.metrics(output)]
    assert splits == ["valid", "valid", "test"]


def test_repeated_from_its_results(recipe, trained, tmp_path):
    again = recipe(
        trained / "hyperparams.yaml",
        tmp_path / "again",
        data_folder=None,
        **dict.fromkeys(recipe.small),
    )
    assert recipe.state(again) == recipe.state(trained)
    assert recipe.sentences(again) == recipe.sentences(trained)


def test_gone_on_with(recipe, recordings, prepared, trained, tmp_path):
    options = {"data_folder": recordings, "manifest": prepared}
    output = tmp_path / "results"
    # The schedules of both runs are of the whole training.
    steps = {"total_steps": 6}
    recipe(
        "am_sincnet_m035.yaml", output, number_of_epochs=1, **steps, **options
    )
    recipe("am_sincnet_m035.yaml", output, **steps, **options)
    assert recipe.state(output) == recipe.state(trained)


def test_refused_by_the_recipe(refused, prepared, tmp_path):
    """One sentence, before anything is made."""
    sentence = refused(manifest=tmp_path / "none")
    assert str(tmp_path / "none") in sentence
    assert "amsincnet prepare" in sentence
    sentence = refused(manifest=prepared, validation_sentences=1)
    assert "no valid.csv" in sentence
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--test-fraction", 1.5], "test_fraction is 1.5"),
        (["--validation-sentences", 9], "needs 11"),
        (["--data-folder", "/nowhere"], "outside"),
    ],
)
def test_refused_by_the_command(recordings, tmp_path, capsys, options, words):
    """One sentence, and nothing is written."""
    arguments = ["prepare", recordings, "--output", tmp_path / "out", *options]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and not (tmp_path / "out").exists()
    line = captured.err.splitlines()[-1]
    assert line.startswith("Error: ") and line.endswith(".") and words in line
