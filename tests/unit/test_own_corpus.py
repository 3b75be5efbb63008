"""Anybody's recordings: every description, every check, the split."""

import csv
import errno
import json
import os
import re
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from amsincnet_sb.cli import main
from amsincnet_sb.dataio.corpus import (
    find_manifests,
    prepare_own_corpus,
    split_utterances,
)
from amsincnet_sb.dataio.manifest import Provenance, Utterance, read_manifest
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ("ann", "bob", "Zoë")
FILES = ("1.wav", "2.flac", "old/3.WAV", "old/er/4.aiff")
WAVS = sorted(f"{speaker}/{file}" for speaker in SPEAKERS for file in FILES)
ROWS = [{"path": wav, "speaker": wav.split("/")[0]} for wav in WAVS]
RATE = 8000


def noise(name, frames=4000):
    seed = zlib.crc32(name.encode())
    return np.random.default_rng(seed).uniform(-0.5, 0.5, frames)


def put(path, wave=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = noise(path.as_posix()) if wave is None else wave
    soundfile.write(path, wave, RATE, **how)
    return path


@pytest.fixture
def tree(tmp_path):
    """Three speakers with four utterances each, at several depths."""
    root = tmp_path / "corpus"
    for wav in WAVS:
        put(root / wav, noise(wav))
    (root / "ann" / "notes.txt").write_text("not a recording")
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifests"


def splits(out):
    return {
        name: read_manifest(out / f"{name}.csv")
        for name in ("train", "valid", "test")
        if (out / f"{name}.csv").exists()
    }


def refused(*arguments, **options):
    with pytest.raises(InputError) as error:
        prepare_own_corpus(*arguments, **options)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_folders_of_speakers(tree, out):
    summary = prepare_own_corpus(tree, out)
    found = splits(out)
    assert found.keys() == {"train", "test"}
    assert sorted(u.wav for u in found["train"] + found["test"]) == WAVS
    for u in found["train"] + found["test"]:
        assert u.spk_id == u.wav.split("/")[0]
        assert (u.start, u.stop, u.duration) == (0, 4000, 0.5)
    assert sorted(u.spk_id for u in found["test"]) == sorted(SPEAKERS)
    assert summary.options["data_folder"] == str(tree)
    assert summary.left_out == []
    assert summary.notes == ["utterances at 8000 Hz, resampled when read: 12"]
    assert summary.counts["train"]["sentences"] == 9
    assert Provenance.read(out) == summary
    assert sorted(os.listdir(out)) == ["prepare.json", "test.csv", "train.csv"]


def test_a_data_folder_around_it(tree, out, tmp_path):
    prepare_own_corpus(tree, out, data_folder=tmp_path)
    assert all(u.wav.startswith("corpus/") for u in splits(out)["train"])
    assert "outside" in refused(tree, out, data_folder=tree / "ann")


def test_folders_that_are_split_already(tmp_path, out):
    own = tmp_path / "own"
    for part, number in (("Train", 2), ("dev", 1), ("test", 1)):
        for speaker in SPEAKERS:
            for i in range(number):
                put(own / part / speaker / f"{i}.wav")
    put(own / "test" / "stranger" / "1.wav")
    summary = prepare_own_corpus(own, out)
    found = splits(out)
    assert [len(rows) for rows in found.values()] == [6, 3, 3]
    assert all(u.wav.startswith("Train/") for u in found["train"])
    assert summary.left_out == [
        ("test/stranger/1.wav", "speaker stranger has no training utterance")
    ]


def test_what_is_left_out_and_why(tree, out):
    ann = tree / "ann"
    put(tree / "stray.wav")
    for suffix in ("m4a", "3gp", "mkv", "m4b"):
        (ann / f"phone.{suffix}").write_bytes(b"\0\0\0 ftypM4A ")
    put(ann / "silent.wav", np.zeros(4000))
    put(ann / "silent; stereo.wav", np.zeros((4000, 2)))
    left = np.append(np.zeros(4000), noise("left"))
    put(ann / "opposed.wav", np.stack([left, -left], 1))
    soundfile.write(ann / "odd.wav", noise("odd", 12000), 44101)
    put(ann / "short.wav", noise("short", 1599))
    put(ann / "nan.wav", np.full(4000, np.nan), subtype="FLOAT")
    cut = put(ann / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:2000])
    put(ann / "zz copy.flac", soundfile.read(ann / "1.wav")[0])
    put(tree / "bob" / "of both.wav", noise("both"))
    put(tree / "Zoë" / "both.wav", noise("both"))
    put(ann / "price$.wav")
    put(tree / "one" / "only.wav")
    put(ann / "stereo.wav", np.stack([noise("left"), noise("right")], 1))

    summary = prepare_own_corpus(tree, out)
    found = {os.path.basename(file): why for file, why in summary.left_out}
    expected = {
        "stray.wav": "no speaker's folder",
        "phone.m4a": "cannot be read as audio",
        "phone.3gp": "cannot be read as audio",
        "phone.mkv": "cannot be read as audio",
        "phone.m4b": "cannot be read as audio",
        "silent.wav": "it is silent",
        "silent; stereo.wav": "it is silent",
        "opposed.wav": "its channels cancel each other",
        "odd.wav": "44101 samples per second cannot be resampled to 16000",
        "short.wav": "it lasts 0.1999 s",
        "nan.wav": "NaN",
        "cut.wav": "cut short",
        "zz copy.flac": "the same samples as ann/1.wav",
        "of both.wav": "speaker Zoë has the same samples in Zoë/both.wav",
        "both.wav": "speaker bob has the same samples in bob/of both.wav",
        "price$.wav": "without $",
        "only.wav": "speaker one has 1 usable utterance and needs 2",
    }
    assert found.keys() == expected.keys()
    for name, why in expected.items():
        assert why in found[name], name
    assert "utterances with 2 channels, averaged: 1" in summary.notes
    used = [u.wav for rows in splits(out).values() for u in rows]
    assert len(used) == 13 and "ann/stereo.wav" in used


# The split -------------------------------------------------------------------


def utterances(speakers, number):
    return [
        Utterance(f"{s}-{i}", 1.0, f"{s}/{i}.wav", 0, 9, f"s{s}")
        for s in range(speakers)
        for i in range(number)
    ]


@pytest.mark.parametrize(
    "number, fraction, held_out, sizes",
    [
        (10, 0.3, 2, (5, 2, 3)),
        (20, 0.01, 3, (16, 3, 1)),
        (3, 0.99, 1, (1, 1, 1)),
        (2, 0.5, 1, (0, 0, 0)),
        (1, 0.5, 0, (0, 0, 0)),
    ],
)
def test_sizes_of_the_split(number, fraction, held_out, sizes):
    given = utterances(3, number)
    found, left_out = split_utterances(given, fraction, held_out)
    assert len(left_out) == (0 if any(sizes) else len(given))
    for rows, size in zip(found.values(), sizes):
        assert rows == [u for u in given if u in rows]
        speakers = sorted(u.spk_id for u in rows)
        assert speakers == sorted(size * ["s0", "s1", "s2"])
    assert len(set().union(*found.values())) == 3 * sum(sizes)


def test_the_seed_decides_and_more_speakers_change_nothing():
    given = utterances(9, 8)
    one, again, other = (
        split_utterances(given, seed=seed)[0]["test"] for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len({u.id.split("-")[1] for u in one}) > 4  # not the same of each
    few = split_utterances(utterances(3, 8), seed=1)[0]["test"]
    assert set(few) < set(one)


# Descriptions of a corpus ----------------------------------------------------


def write_csv(path, rows=ROWS, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path, entries=ROWS):
    path.write_text(json.dumps(entries))
    return path


def write_lines(folder, name, *lines):
    text = "".join(f"{line}\n" for line in lines)
    (folder / name).write_text(text, encoding="utf-8")


def write_kaldi(folder):
    write_lines(folder, "utt2spk", *(f"{w} {w.split('/')[0]}" for w in WAVS))
    write_lines(folder, "wav.scp", *(f"{w} {folder}/corpus/{w}" for w in WAVS))
    return folder


def speechbrain(root):
    return {
        row["path"]: {"wav": f"{root}/{row['path']}", "spk_id": row["speaker"]}
        for row in ROWS
    }


OF_SPEECHBRAIN = [{"ID": k, **v} for k, v in speechbrain("$data_root").items()]
# A function that describes the corpus in a new file.
DESCRIPTIONS = {
    "CSV": lambda at: write_csv(at / "a.csv"),
    "CSV with ;": lambda at: write_csv(at / "a.csv", delimiter=";"),
    "CSV with tabs": lambda at: write_csv(at / "a.tsv", delimiter="\t"),
    "CSV of SpeechBrain": lambda at: write_csv(at / "a.csv", OF_SPEECHBRAIN),
    "JSON": lambda at: write_json(at / "a.json"),
    "JSON of SpeechBrain": lambda at: write_json(
        at / "a.json", speechbrain("{data_root}")
    ),
    "Kaldi": write_kaldi,
}


@pytest.fixture
def expected(tree, tmp_path):
    prepare_own_corpus(tree, tmp_path / "expected")
    return splits(tmp_path / "expected")


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_other_descriptions_give_the_same(tree, out, expected, tmp_path, name):
    summary = prepare_own_corpus(DESCRIPTIONS[name](tmp_path), out, tree)
    assert splits(out) == expected
    assert summary.options["corpus"].split()[0] == name.split()[0]


def test_absolute_paths(tree, out, expected, tmp_path):
    rows = [{**row, "path": str(tree / row["path"])} for row in ROWS]
    (tmp_path / "deep").mkdir()
    deep = write_csv(tmp_path / "deep" / "a.csv", rows)
    summary = prepare_own_corpus(deep, out)
    assert summary.options["data_folder"] == str(tree)
    assert splits(out) == expected


def test_a_split_column_wins(tree, out):
    parts = {"1": "Test", "2": "train", "3": "train", "4": "dev"}
    rows = [{**r, "split": parts[Path(r["path"]).name[0]]} for r in ROWS]
    source = write_csv(tree / "all.csv", rows)
    prepare_own_corpus(source, out, seed=5)
    found = {
        split: {os.path.basename(u.wav)[0] for u in found}
        for split, found in splits(out).items()
    }
    assert found == {"test": {"1"}, "train": {"2", "3"}, "valid": {"4"}}
    words = refused(source, out, validation_sentences=1)
    assert "validation_sentences" in words


@pytest.mark.parametrize("given", [True, False])
def test_a_link_is_another_name_of_its_recording(tmp_path, out, given):
    """Parts that share samples are on one side, whatever it is called."""
    rows = []
    for speaker in SPEAKERS:
        put(tmp_path / f"{speaker}.wav", noise(speaker, 30000))
        link = tmp_path / f"a link to {speaker}.wav"
        link.symlink_to(tmp_path / f"{speaker}.wav")
        for i, start in enumerate(range(0, 24000, 6000)):
            for path, at in ((f"{speaker}.wav", 0), (link.name, 2000)):
                row = {"path": path, "speaker": speaker}
                row |= {"start": start + at, "stop": start + at + 4000}
                split = "test" if (i == 0) == (at > 0) else "train"
                rows.append(row | ({"split": split} if given else {}))
    for speaker in SPEAKERS if given else ():  # to be tested with
        put(tmp_path / f"more {speaker}.wav")
        row = {"path": f"more {speaker}.wav", "speaker": speaker}
        rows.append({**row, "start": 0, "stop": 4000, "split": "test"})
    prepare_own_corpus(write_csv(tmp_path / "parts.csv", rows), out)
    sides = {
        split: {
            (u.spk_id, i)
            for u in found
            for i in range(u.start, u.stop)
            if not u.wav.startswith("more")
        }
        for split, found in splits(out).items()
    }
    assert not sides["train"] & sides["test"]
    assert bool(sides["test"]) != given


def test_parts_of_a_recording(tmp_path, out):
    rows = []
    for speaker in SPEAKERS:
        put(tmp_path / f"{speaker}.wav", noise(speaker, 9000))
        row = {"wav": f"{speaker}.wav", "spk": speaker}
        for start, stop in ((0, 3000), (3000, 6000), (6000, "")):
            rows.append({**row, "start": start, "stop": stop})
    rows.append({**row, "start": 8999, "stop": 20000})
    summary = prepare_own_corpus(write_csv(tmp_path / "parts.csv", rows), out)
    used = [u for rows in splits(out).values() for u in rows]
    limits = sorted((u.start, u.stop) for u in used if u.spk_id == "bob")
    assert limits == [(0, 3000), (3000, 6000), (6000, 9000)]
    assert [why for _, why in summary.left_out] == [
        "it has no samples from 8999 to 20000"
    ]


# Refusals --------------------------------------------------------------------


def only(tree, kept):
    """The corpus, in which all other files are empty."""
    for wav in WAVS:
        if kept not in wav:
            (tree / wav).write_bytes(b"")
    return tree


def changed(tree, rows=ROWS, **columns):
    """A list of the corpus with other columns or values."""
    return write_csv(tree / "all.csv", [{**row, **columns} for row in rows])


NO_SPEAKER = [{"path": row["path"], "who": "x"} for row in ROWS]
MISSING = ROWS[:1] + [{**r, "path": f"no {r['path']}"} for r in ROWS[1:3]]
OUTSIDE = [*ROWS, {**ROWS[0], "path": "../secret.wav"}]
# Words of a sentence, and what makes the corpus that it is about.
REFUSED = {
    "no such file": lambda tree: tree / "none",
    "neither a folder": lambda tree: tree / "ann" / "notes.txt",
    "folder for each speaker": lambda tree: tree / "ann" / "old" / "er",
    "one speaker alone, corpus": lambda tree: tree.parent,
    "fewer than two .* empty": lambda tree: only(tree, "nothing"),
    "1 usable utterance and needs 2": lambda tree: only(tree, "1.wav"),
    "no usable utterance to test": lambda tree: changed(tree, split="train"),
    "gives the speaker; .* are path, who": lambda tree: write_json(
        tree / "a.json", NO_SPEAKER
    ),
    "line 3: .*no .* and 1 more does not exist.*--data-folder": (
        lambda tree: changed(tree, MISSING)
    ),
    "line 3: the ID 'same' occurs twice": lambda tree: changed(tree, ID="same"),
    "secret.wav is outside": lambda tree: changed(tree, OUTSIDE),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused(tree, out, words):
    put(tree.parent / "secret.wav")
    options = {"data_folder": tree} if "outside" in words else {}
    assert re.search(words, refused(REFUSED[words](tree), out, **options))
    assert not out.exists()


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", "path,speaker\n"),
        ("a.csv", "path,speaker\na.wav\n"),
        ("a.csv", 'path,speaker\n"a.wav,ann\n'),
        ("a.csv", "path,speaker\n,ann\n"),
        ("a.csv", "path,speaker,split\na.wav,ann,maybe\n"),
        ("a.csv", "path,speaker,start\na.wav,ann,1.5\n"),
        ("a.csv", "path,speaker,start\na.wav,ann,-1\n"),
        ("a.json", ""),
        ("a.json", "3"),
        ("a.json", "[]"),
        ("a.json", '["a.wav"]'),
        ("a.json", '{"a": {}, "a": {}}'),
        ("a.json", '[{"path": ["a.wav"], "speaker": "ann"}]'),
        ("a.json", "[" * 100_000),
    ],
)
def test_bad_lists(tmp_path, out, name, text):
    (tmp_path / name).write_text(text)
    assert str(tmp_path / name) in refused(tmp_path / name, out)
    assert not out.exists()


def test_bad_kaldi_folders(tmp_path, out):
    canary = tmp_path / "canary"
    write_lines(tmp_path, "utt2spk", "a ann")
    for command in (f"touch {canary} |", f"| touch {canary}"):
        write_lines(tmp_path, "wav.scp", f"a {command}")
        assert "line 1: it is a command" in refused(tmp_path, out)
    assert not canary.exists()
    write_lines(tmp_path, "wav.scp", "a a.wav", "b a.wav")
    assert "b has no speaker" in refused(tmp_path, out)
    write_lines(tmp_path, "utt2spk", "a ann", "a bob")
    assert "line 2: the ID 'a' occurs twice" in refused(tmp_path, out)
    write_lines(tmp_path, "utt2spk", "a ")
    assert "nothing after a" in refused(tmp_path, out)
    (tmp_path / "utt2spk").unlink()
    assert "no utt2spk" in refused(tmp_path, out)


def test_options(tree, out):
    for fraction in (0, 1, float("nan")):
        assert "test_fraction" in refused(tree, out, test_fraction=fraction)
    assert "-1" in refused(tree, out, validation_sentences=-1)


# Prepared folders ------------------------------------------------------------


def test_made_again(tree, out):
    first = prepare_own_corpus(tree, out, validation_sentences=1)
    assert splits(out).keys() == {"train", "valid", "test"}
    second = prepare_own_corpus(tree, out)
    assert splits(out).keys() == {"train", "test"}
    assert prepare_own_corpus(tree, out) == second
    put(tree / "ann" / "1.wav", noise("another"))
    third = prepare_own_corpus(tree, out)
    assert len({made.fingerprint for made in (first, second, third)}) == 3


def test_nobody_elses_manifests_are_replaced(tree, out):
    out.mkdir()
    (out / "train.csv").write_text("mine")
    assert "train.csv exists" in refused(tree, out)
    assert (out / "train.csv").read_text() == "mine"
    assert len(os.listdir(out)) == 1
    (out / "train.csv").rename(out / "prepare.json")
    assert "prepare.json exists and was not" in refused(tree, out)
    assert (out / "prepare.json").read_text() == "mine"
    assert len(os.listdir(out)) == 1


def test_speakers_without_a_validation_utterance(tree, out):
    kinds = {"1": "test", "2": "valid", "3": "train", "4": "train"}
    rows = [{**r, "split": kinds[Path(r["path"]).name[0]]} for r in ROWS]
    for row in rows:
        if row["speaker"] == "Zoë" and row["split"] == "valid":
            row["split"] = "train"
    summary = prepare_own_corpus(write_csv(tree / "all.csv", rows), out)
    assert "speaker Zoë has no validation utterance" in summary.notes
    assert sum("no validation" in note for note in summary.notes) == 1
    summary = prepare_own_corpus(tree, out)
    assert not any("no validation" in note for note in summary.notes)


def test_a_list_that_is_called_like_an_output(tree, capsys):
    path = tree / "prepare.json"
    path.write_text(json.dumps(ROWS))
    with pytest.raises(SystemExit):
        main(["prepare", str(path), "--output", str(tree)])
    assert "prepare.json cannot be written: it is an" in capsys.readouterr().err
    assert json.loads(path.read_text()) == ROWS


def test_found_by_the_recipe(tree, out):
    summary = prepare_own_corpus(tree, out)
    corpus, options = find_manifests(out)
    assert corpus == summary and options == {
        "train_annotation": str(out / "train.csv"),
        "valid_annotation": str(out / "valid.csv"),
        "test_annotation": str(out / "test.csv"),
        "validation_sentences": 0,
    }
    with pytest.raises(InputError, match="--validation-sentences 2"):
        find_manifests(out, 2)
    prepare_own_corpus(tree, out, validation_sentences=1)
    assert find_manifests(out)[1]["validation_sentences"] == 1
    with pytest.raises(InputError, match="is 2, but .* was prepared with 1"):
        find_manifests(out, 2)


@pytest.mark.parametrize("written", range(5))
def test_a_full_disk_loses_nothing(tree, out, monkeypatch, written):
    """Whichever file is the one for which no room is left."""
    summary = prepare_own_corpus(tree, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    no_room = OSError(errno.ENOSPC, "No space left on device")
    full = Mock(side_effect=[None] * written + [no_room])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in refused(tree, out, seed=1)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert find_manifests(out)[0] == summary


def test_unfinished(tree, out, monkeypatch):
    """Interrupted between two files, it is no preparation."""
    prepare_own_corpus(tree, out)

    def replace(old, new, real=os.replace):
        """Rename no manifest but the first that takes its place."""
        if Path(new).name == "train.csv":
            raise OSError(errno.EIO, "broken")
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        refused(tree, out, seed=1)
    for name in ("train.csv", "test.csv", "prepare.json", None):
        with pytest.raises(InputError, match="not a finished preparation"):
            find_manifests(out)
        if name:
            prepare_own_corpus(tree, out)
            (out / name).unlink()
