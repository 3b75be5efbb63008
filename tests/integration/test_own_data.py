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
                file = file.with_suffix(".flac")
            elif i == 2:
                wave = np.stack([wave, wave], 1)
            elif i == 3:
                wave, rate = wave[::2], rate // 2
            soundfile.write(file, wave, rate)
    (root / "Ann" / "broken.wav").write_text("This is no audio.")
    return root


@pytest.fixture(scope="module")
def prepared(recordings, tmp_path_factory):
    return prepare(recordings, tmp_path_factory.mktemp("prepared") / "out")


def prepare(recordings, folder, *options):
    arguments = ["prepare", recordings, "--output", folder, *options]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(recipe, recordings, prepared, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "results"
    options = {"data_folder": recordings, "manifest": prepared}
    return recipe("am_sincnet_m035.yaml", output, **options)


def test_the_summary(recordings, tmp_path, capsys):
    options = ["--validation-sentences", 1, "--test-fraction", 0.4]
    folder = prepare(recordings, tmp_path / "manifests", *options)
    out = capsys.readouterr().out
    assert f"{recordings}: folder with a folder for each speaker\n" in out
    for words in (
        "  train: 4 speakers, 16 utterances, 0.0",
        "  test: 4 speakers, 12 utterances, 0.0",
        "  valid: 4 speakers, 4 utterances, 0.0",
        "left out Ann/broken.wav: it cannot be read as audio",
        "utterances at 8000 Hz, resampled when read: 4",
        "utterances with 2 channels, averaged: 4",
    ):
        assert words in out
    *_, verb, hparams, manifest, data = shlex.split(out.splitlines()[-1])
    assert verb == "train" and hparams in ("sinc_tdnn_robust", "quick")
    assert [manifest, data] == [
        f"--manifest={folder}",
        f"--data_folder={recordings}",
    ]


def test_a_name_that_is_not_unicode(recordings, tmp_path, capsys):
    root = shutil.copytree(recordings, tmp_path / "own")
    os.rename(root / "Ann" / "broken.wav", os.fsencode(root) + b"/Ann/\xff.wav")
    prepare(root, tmp_path / "out")
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


def test_a_file_is_identified(trained, recordings, capsys):
    file = str(recordings / "Bob" / "day 0" / "1.flac")
    assert main(["identify", str(trained), file, "--top", "4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    names = {c["speaker"] for c in json.loads(line)["candidates"]}
    assert names == {"Ann", "Bob", "Cem", "Dora"}


def edited(prepared, folder, name, change):
    shutil.copytree(prepared, folder)
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(change(text), encoding="utf-8")
    return folder


def test_a_manifest_from_a_spreadsheet(recipe, recordings, prepared, tmp_path):
    """A byte order mark, and a column that is not ours, do no harm."""

    def change(text):
        first, *rows = text.splitlines()
        return "\n".join([f"\ufeff{first},price", *(f"{r},$5" for r in rows)])

    folder = edited(prepared, tmp_path / "manifests", "train.csv", change)
    options = {"data_folder": recordings, "manifest": folder}
    output = recipe("am_sincnet_m035.yaml", tmp_path / "results", **options)
    assert (output / "pretrained").is_dir()


def test_tested_but_not_trained(refused, recordings, prepared, tmp_path):
    def change(text):
        return text.replace(",Bob\n", ",Eve\n")

    folder = edited(prepared, tmp_path / "manifests", "test.csv", change)
    sentence = refused(data_folder=recordings, manifest=folder)
    assert "test.csv, line " in sentence and "speaker 'Eve'" in sentence
    assert not (tmp_path / "results").exists()


def test_a_list_beside_the_manifests(refused, recordings, prepared, tmp_path):
    """Training would be on another than is given."""
    sentence = refused(
        data_folder=recordings,
        manifest=prepared,
        train_annotation=prepared / "test.csv",
    )
    assert "--train_annotation has no effect beside the manifest" in sentence
    assert not (tmp_path / "results").exists()


def test_refused_by_the_recipe(refused, tmp_path):
    """One sentence, before anything is made."""
    sentence = refused(manifest=tmp_path / "none")
    assert "amsincnet prepare" in sentence
    assert not (tmp_path / "results").exists()
