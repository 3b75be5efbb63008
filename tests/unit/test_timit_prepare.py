"""TIMIT's preparation on small generated trees in every known layout."""

import logging
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import timit_prepare

from amsincnet_sb.dataio.manifest import Provenance, read_manifest
from amsincnet_sb.utils.errors import InputError

# Not in the order of their labels; two are called much like sentences.
TRAIN = [("DR2", "MZMB0"), ("DR1", "MCPM0"), ("DR1", "FSXA0"), ("DR2", "SXEM0")]
TEST = [("DR1", "MDAB0"), ("DR2", "FPAS0")]
SENTENCES = ["SA1", "SA2", "SI700", "SI70", "SX9", "SX10", "SX100"]
FRAMES = 8000


def speech(*key):
    """Noise that depends on the key alone, and where its words are."""
    seed = int.from_bytes("".join(key).lower().encode()[-7:], "big")
    random = np.random.default_rng(seed)
    start, stop = int(random.integers(900)), int(random.integers(6000, FRAMES))
    # Overlapping, and the last word to end is not the last line.
    words = [(start, 3000), (2500, stop), (2600, 5000)]
    return random.normal(0, 0.1, FRAMES), words


def put(folder, speaker, sentence, kind="NIST", name="{}.WAV"):
    folder.mkdir(parents=True, exist_ok=True)
    wave, words = speech(speaker, sentence)
    path = folder / name.format(sentence)
    soundfile.write(path, wave, 16000, format=kind, subtype="PCM_16")
    lines = [f"{a} {b} word{i}\n" for i, (a, b) in enumerate(words)]
    wrd = ".wrd" if path.suffix.islower() else ".WRD"
    (folder / f"{sentence}{wrd}").write_text("".join(lines))
    return path


HALVES = {"TRAIN": TRAIN, "TEST": TEST}


def tree(root, case=str.upper, kind="NIST", halves=HALVES, name="{}.WAV"):
    """LDC's layout."""
    for half in halves:
        for dialect, speaker in HALVES[half]:
            folder = root.joinpath(*map(case, (half, dialect, speaker)))
            for sentence in SENTENCES:
                put(folder, speaker, case(sentence), kind, name)
    return root


def flat(root):
    """The layout of NLTK's sample."""
    for dialect, speaker in TRAIN:
        folder = root / f"{dialect}-{speaker}".lower()
        for sentence in SENTENCES:
            put(folder, speaker, sentence.lower(), "WAV", "{}.wav")
    return root


def prepare(root, out, **kwargs):
    paths = [out / f"{split}.csv" for split in ("train", "test", "valid")]
    return timit_prepare.prepare_timit(str(root), *paths, **kwargs)


def rows(out):
    """Everything in the manifests but the paths."""
    return {
        split: [
            (u.id, u.spk_id, u.start, u.stop, u.duration)
            for u in read_manifest(out / f"{split}.csv")
        ]
        for split in ("train", "test")
    }


def expected(speakers=TRAIN):
    """The manifests by the protocol, computed without the code under test."""
    split = {"train": ["sx10", "sx100", "sx9"], "test": ["si70", "si700"]}
    result = {"train": [], "test": []}
    for dialect, speaker in sorted((d.lower(), s.lower()) for d, s in speakers):
        for name, sentences in split.items():
            for sentence in sentences:
                starts, stops = zip(*speech(speaker, sentence)[1])
                start, stop = min(starts), max(stops)
                key = f"{dialect}-{speaker}-{sentence}"
                row = key, speaker, start, stop, (stop - start) / 16000
                result[name].append(row)
    return result


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def timit(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "TIMIT"))


LAYOUTS = {
    "ldc": lambda root: tree(root),
    "lower": lambda root: tree(root, str.lower, "WAV", name="{}.wav"),
    "mixed": lambda root: tree(root, str.capitalize, name="{}.Wav"),
    "train only": lambda root: tree(root, halves=["TRAIN"]),
    "parent": lambda root: tree(root / "TIMIT").parent,
    "grandparent": lambda root: tree(root / "data" / "timit").parents[1],
    "wav.wav": lambda root: tree(root, kind="WAV", name="{}.WAV.wav"),
    "flat": flat,
    "flat parent": lambda root: flat(root / "timit").parent,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path, layout):
    root = LAYOUTS[layout](tmp_path / "corpus")
    summary = prepare(root, tmp_path / "out")
    assert rows(tmp_path / "out") == expected()
    assert summary.left_out == [] and summary.notes == []
    seconds = [sum(row[-1] for row in rows) for rows in expected().values()]
    for name, sentences, total in zip(("train", "test"), (12, 8), seconds):
        assert summary.counts[name] == {
            "speakers": 4,
            "sentences": sentences,
            "hours": pytest.approx(total / 3600),
        }
    for u in read_manifest(tmp_path / "out" / "train.csv"):
        assert (root / u.wav).is_file()


def test_several_copies(tmp_path):
    root = tmp_path / "corpus"
    one = tree(root / "TIMIT")
    (root / "timit_link").symlink_to(one)
    prepare(root, tmp_path / "out")
    assert rows(tmp_path / "out") == expected()
    flat(root / "data" / "timit_8k")
    words = "several copies of TIMIT, TIMIT and data/timit_8k; give"
    with pytest.raises(InputError, match=words):
        prepare(root, tmp_path / "out")


def test_all_speakers(timit, tmp_path):
    summary = prepare(timit, tmp_path, all_speakers=True)
    assert rows(tmp_path) == expected(TRAIN + TEST)
    assert summary.counts["train"]["speakers"] == 6
    shutil.rmtree(timit / "TEST")
    with pytest.raises(InputError, match="TRAIN but no TEST"):
        prepare(timit, tmp_path, all_speakers=True)


def test_validation_sentences_are_the_last(timit, tmp_path):
    prepare(timit, tmp_path, validation_sentences=2)
    train = expected()["train"]
    assert rows(tmp_path)["train"] == train[::3]
    valid = [u.id for u in read_manifest(tmp_path / "valid.csv")]
    assert valid == [row[0] for i, row in enumerate(train) if i % 3]
    assert rows(tmp_path)["test"] == expected()["test"]
    # Without validation they train again, and no stale manifest stays.
    prepare(timit, tmp_path)
    assert rows(tmp_path)["train"] == train
    assert not (tmp_path / "valid.csv").exists()
    with pytest.raises(InputError, match="speaker fsxa0 has 3 training"):
        prepare(timit, tmp_path, validation_sentences=3)
    with pytest.raises(InputError, match="is -1 but must be 0"):
        prepare(timit, tmp_path, validation_sentences=-1)
    paths = timit, tmp_path / "a", tmp_path / "b"
    with pytest.raises(InputError, match="valid_annotation"):
        timit_prepare.prepare_timit(*paths, validation_sentences=1)
    assert rows(tmp_path)["train"] == train


def test_up_to_date_until_something_changes(
    timit, tmp_path, monkeypatch, caplog
):
    scan = Mock(wraps=timit_prepare.scan_timit)
    monkeypatch.setattr(timit_prepare, "scan_timit", scan)
    out = tmp_path / "out"

    def scanned(**kwargs):
        scan.reset_mock()
        summary = prepare(timit, out, **kwargs)
        assert summary == Provenance.read(out)
        return scan.called

    assert scanned()
    with caplog.at_level(logging.INFO, logger="timit_prepare"):
        assert not scanned()
    assert "up to date" in caplog.text
    sx9 = timit / "TRAIN" / "DR1" / "FSXA0" / "SX9.WAV"
    before = {p: p.read_text() for p in out.glob("*.csv")}
    for change in (
        lambda: os.utime(sx9, ns=(0, 1)),
        (out / "test.csv").unlink,
        (out / "prepare.json").unlink,
    ):
        change()
        assert scanned() and not scanned()
        assert before == {p: p.read_text() for p in out.glob("*.csv")}
    edited = before[out / "train.csv"].replace("fsxa0", "fsxa1")
    (out / "train.csv").write_text(edited)
    for options in ({}, {"validation_sentences": 1}):
        with pytest.raises(InputError, match="train.csv was changed.*skip_pr"):
            scanned(**options)
        assert (out / "train.csv").read_text() == edited and not scan.called
    (out / "train.csv").write_text(before[out / "train.csv"])
    assert not scanned()
    assert scanned(validation_sentences=1)
    assert scanned(all_speakers=True)
    assert scanned()
    sx9.with_suffix(".WRD").write_text("1 5000 word\n")
    assert scanned()
    assert rows(out)["train"][2][2:4] == (1, 5000)
    sx9.unlink()
    assert scanned()
    assert len(rows(out)["train"]) == 11
    whole, timit = timit, timit.parent  # now paths start with TIMIT/
    assert scanned()
    timit = whole
    assert scanned()
    assert sorted(os.listdir(out)) == ["prepare.json", "test.csv", "train.csv"]
    # Moved as a whole, it is still the same corpus.
    timit = timit.rename(tmp_path / "elsewhere")
    assert not scanned()


def test_files_of_the_same_name(timit, tmp_path):
    train, own = tmp_path / "train.csv", tmp_path / "prepare.json"
    for test, valid in ((train, None), (own, None), (tmp_path / "a", train)):
        with pytest.raises(InputError, match="is to be written twice"):
            timit_prepare.prepare_timit(timit, train, test, valid)
    own.write_text("mine")
    with pytest.raises(InputError, match="prepare.json exists"):
        prepare(timit, tmp_path)
    assert own.read_text() == "mine" and not train.exists()


def test_skip_prep(tmp_path):
    assert prepare(tmp_path / "absent", tmp_path, skip_prep=True) is None
    assert os.listdir(tmp_path) == []


def constant(path, value):
    soundfile.write(path, np.full(FRAMES, value), 16000, subtype="FLOAT")


# Each kind of damage: test_audio.py
SPOILT = [
    ("empty", lambda p: p.write_bytes(b"")),
    ("cannot be read", lambda p: p.write_bytes(b"text" * 99)),
    ("cut short", lambda p: p.write_bytes(p.read_bytes()[:5000])),
    ("0.187 s", lambda p: p.with_suffix(".WRD").write_text("9 3008 a")),
    ("no such file", lambda p: p.unlink() or p.symlink_to("absent")),
    ("silent", lambda p: constant(p, 0.0)),
    ("NaN", lambda p: constant(p, np.nan)),
    ("infinite", lambda p: constant(p, -np.inf)),
]


def test_bad_files_are_left_out(timit, tmp_path, caplog):
    paths = sorted(timit.glob("TRAIN/*/*/SX10*.WAV"))
    assert len(paths) == len(SPOILT)
    for path, (_, spoil) in zip(paths, SPOILT):
        spoil(path)
    with caplog.at_level(logging.INFO, logger="timit_prepare"):
        summary = prepare(timit, tmp_path)
    assert [timit / file for file, _ in summary.left_out] == paths
    for (file, why), (reason, _) in zip(summary.left_out, SPOILT):
        assert reason in why and str(tmp_path) not in why
        assert f"left out {file}: {why}" in caplog.text
    good = expected()
    assert rows(tmp_path) == {**good, "train": good["train"][2::3]}


# What a .WRD file holds, the limits of the speech, and the note.
LIMITS = [
    (None, (0, FRAMES), "no .WRD file, taken whole"),
    ("", (0, FRAMES), "malformed"),
    ("10 5000 a\n20 word b\n", (0, FRAMES), "malformed"),
    ("5000 10 a\n", (0, FRAMES), "malformed"),
    ("-5 5000 a\n", (0, FRAMES), "malformed"),
    ("1 " + "9" * 5000 + " a", (0, FRAMES), "malformed"),
    ("8000 9000 a\n", (0, FRAMES), "longer recording"),
    ("10 8001 a\n", (10, FRAMES), "clipped"),
    ("\r\n  10\t5000\tété\r\n\r\n", (10, 5000), ""),
]


def test_speech_limits(timit, tmp_path):
    paths = sorted(timit.rglob("TRAIN/*/*/SX*.WRD"))
    for path, (text, _, _) in zip(paths, LIMITS):
        path.unlink()
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
    summary = prepare(timit, tmp_path)
    assert summary.left_out == []
    for path, row, (_, limits, note) in zip(
        paths, rows(tmp_path)["train"], LIMITS
    ):
        assert row[2:4] == limits
        notes = [n for n in summary.notes if f"{path.stem}." in n]
        notes = [n for n in notes if path.parent.name in n]
        assert len(notes) == bool(note) and note in "".join(notes)


def test_no_pipe_is_waited_for(timit, tmp_path):
    path = timit / "TRAIN" / "DR1" / "FSXA0" / "SX10.WRD"
    path.unlink()
    os.mkfifo(path)
    summary = prepare(timit, tmp_path)
    assert len(summary.notes) == 1 and "malformed .WRD" in summary.notes[0]


def test_what_is_kept_with_a_note(timit, tmp_path):
    folder = timit / "TRAIN" / "DR1" / "FSXA0"
    (folder / "SX10.WRD").write_text("1001 6001 a\n")
    wave = np.random.default_rng(0).normal(0, 0.1, (FRAMES // 2, 2))
    soundfile.write(folder / "SX10.WAV", wave, 8000)
    (folder / "SI70.WRD").write_text("1000 2600 a\n")
    summary = prepare(timit, tmp_path)
    assert summary.left_out == []
    # .WRD files count at 16 kHz, manifests at the file's own rate.
    assert rows(tmp_path)["train"][0][2:] == (500, 3001, 2501 / 8000)
    # Too short to train on, long enough for a test
    assert rows(tmp_path)["test"][0][2:] == (1000, 2600, 0.1)
    assert {note.split(": ")[1] for note in summary.notes} == {
        "0.100 s of speech",
        "2 channels, averaged",
        "8000 Hz, resampled when read",
    }


def test_second_copies(timit, tmp_path):
    folder = timit / "TRAIN" / "DR1" / "FSXA0"
    put(folder, "FSXA0", "SX9", "WAV", "{}.WAV.wav")
    put(folder, "FSXA0", "SX10", "WAV", "{}.WAV.wav")
    (folder / "SX10.WAV").write_bytes(b"")
    put(folder, "FSXA0", "SA1", "WAV", "{}.WAV.wav")
    summary = prepare(timit, tmp_path)
    assert rows(tmp_path) == expected()
    names = [os.path.basename(file) for file, _ in summary.left_out]
    assert names == ["SX10.WAV", "SX9.WAV.wav"]
    assert summary.left_out[1][1].endswith("copy of TRAIN/DR1/FSXA0/SX9.WAV")
    used = read_manifest(tmp_path / "train.csv")
    assert used[0].wav == "TRAIN/DR1/FSXA0/SX10.WAV.wav"


def test_a_speaker_in_two_places(timit, tmp_path):
    for place in ("TRAIN/DR3", "TEST/DR1"):
        shutil.copytree(timit / "TRAIN/DR2/SXEM0", timit / place / "SXEM0")
    summary = prepare(timit, tmp_path, all_speakers=True)
    assert rows(tmp_path) == expected(TRAIN + TEST)
    assert len(summary.left_out) == 2 * 5
    assert {why for _, why in summary.left_out} == {
        "speaker sxem0 also appears elsewhere"
    }


def test_speakers_without_training_or_test(timit, tmp_path):
    for file in timit.glob("TRAIN/DR1/MCPM0/SX*.WAV"):
        file.unlink()
    for file in timit.glob("TRAIN/DR2/SXEM0/SI*.WAV"):
        file.unlink()
    summary = prepare(timit, tmp_path)
    assert summary.left_out == [
        (f"TRAIN/DR1/MCPM0/{s}.WAV", "speaker mcpm0 has no training sentence")
        for s in ("SI70", "SI700")
    ]
    assert summary.notes == ["speaker sxem0 has no test sentence"]
    found = rows(tmp_path)
    assert {r[1] for r in found["train"]} == {"fsxa0", "sxem0", "mzmb0"}
    assert {r[1] for r in found["test"]} == {"fsxa0", "mzmb0"}


def test_strangers_are_left_out_and_hidden_files_ignored(timit, tmp_path):
    folder = timit / "TRAIN" / "DR1" / "FSXA0"
    for name in ("noise.wav", "._SX9.WAV", "SX9.old.wav"):
        shutil.copy(folder / "SX9.WAV", folder / name)
    shutil.copy(folder / "SX9.WAV", timit / "SX9.WAV")
    summary = prepare(timit, tmp_path)
    assert rows(tmp_path) == expected()
    names = [os.path.basename(file) for file, _ in summary.left_out]
    assert names == ["SX9.WAV", "SX9.old.wav", "noise.wav"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: shutil.rmtree(r), "cannot be listed"),
        (lambda r: shutil.rmtree(r) or r.touch(), "cannot be listed"),
        (lambda r: None, "is not TIMIT.*looked for.*holds nothing"),
        (lambda r: (r / "TRAIN/a").mkdir(parents=True), "not TIMIT.*TRAIN"),
        (lambda r: tree(r, halves=["TEST"]), "TEST but no TRAIN"),
        (lambda r: put(r / "DR1/FSXA0", "FSXA0", "SX1"), "holds TRAIN"),
        (lambda r: (r / "TRAIN/DR1").mkdir(parents=True), "no speaker"),
        (lambda r: put(r / "TRAIN/DR1/A", "A", "SI1"), "no speaker.*no train"),
    ],
)
def test_what_is_not_timit(tmp_path, make, words):
    root = tmp_path / "corpus"
    root.mkdir()
    make(root)
    with pytest.raises(InputError, match=words) as caught:
        prepare(root, tmp_path / "out")
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
