"""LibriSpeech's preparation on a small generated tree of its shape."""

import os
import runpy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.corpus import find_manifests
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.utils.errors import InputError

RECIPE = Path(__file__).parents[2] / "recipes/LibriSpeech"
SCRIPT = runpy.run_path(str(RECIPE / "librispeech_prepare.py"))
prepare = SCRIPT["prepare_librispeech"]

RATE = 1000  # Hz; a sixteenth of the samples to write
SPEAKERS = {
    "1034": ("train-clean-100", (14.1, 15.3, 2.4, 16.0, 5.5)),
    "84": ("dev-clean", (7.0, 9.0, 8.0)),  # none of 2 to 6 s
    "7": ("train-other-500", (3.0, 4.0, 5.0, 2.0, 1.0, 6.0, 0.1)),
    "300": ("test-other", (3.0, 4.0)),  # too little
    "19": ("train-clean-100", (30.0, 1.9, 25.0)),
}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "LibriSpeech"
    noise = np.random.default_rng(0)
    for speaker, (subset, lengths) in SPEAKERS.items():
        for i, seconds in enumerate(lengths):
            chapter = str(100 + i // 3)
            folder = root / subset / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{speaker}-{chapter}-{i:04}.flac"
            wave = noise.uniform(-0.5, 0.5, round(RATE * seconds))
            soundfile.write(file, wave, RATE)
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("TEXT")
    return root


def test_the_protocol(tree, tmp_path):
    out = tmp_path / "out"
    summary = prepare(tree, out)
    parts = {}
    for split in ("train", "test"):
        parts[split] = defaultdict(list)
        for u in read_manifest(out / f"{split}.csv"):
            parts[split][u.spk_id].append(u)
            assert u.id == Path(u.wav).stem
            assert u.stop <= soundfile.info(tree / u.wav).frames
    # Numbers in the order of numbers.
    assert list(parts["train"]) == ["7", "19", "84", "1034"]
    assert parts["test"].keys() == parts["train"].keys()
    for speaker, train in parts["train"].items():
        (test,) = parts["test"][speaker]
        assert 12 <= sum(u.duration for u in train) <= 15
        assert 2 <= test.duration <= 6
        assert test.wav not in {u.wav for u in train}
        for u in train[:-1]:  # only the last one is cut
            assert soundfile.info(tree / u.wav).frames == u.stop
    assert {u.duration for u in parts["test"]["84"]} == {6.0}
    assert parts["test"]["1034"][0].duration in (2.4, 5.5)
    assert summary.left_out == [("300", "the speaker has too little speech")]
    corpus, options = find_manifests(out)
    assert corpus == summary and options["validation_sentences"] == 0
    assert sorted(os.listdir(out)) == ["prepare.json", "test.csv", "train.csv"]


def test_the_same_each_time(tree, tmp_path):
    chosen = []
    for i, seed in enumerate((1, 1, 2)):
        prepare(tree, tmp_path / str(i), seed)
        chosen.append(read_manifest(tmp_path / str(i) / "train.csv"))
    assert chosen[0] == chosen[1] != chosen[2]


def test_unusable_files(tree, tmp_path):
    prepare(tree, tmp_path / "before")
    before = read_manifest(tmp_path / "before" / "test.csv")
    (test,) = [u for u in before if u.spk_id == "84"]
    wave, rate = soundfile.read(tree / test.wav)
    soundfile.write(tree / test.wav, 0 * wave, rate)
    next(tree.glob("*/1034/*/*-0001.flac")).write_bytes(b"fLaC")
    summary = prepare(tree, tmp_path / "after")
    reasons = dict(summary.left_out)
    assert reasons[test.wav] == "it is silent"
    assert sum(why.startswith("another of") for why in reasons.values()) == 2
    (why,) = (why for why in reasons.values() if "cannot be read" in why)
    assert why.startswith("it cannot be read") and not why.endswith(".")
    speakers = {u.spk_id for u in read_manifest(tmp_path / "after/train.csv")}
    assert speakers == {"7", "19", "1034"}


def test_refused(tree, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="is not LibriSpeech"):
        prepare(tmp_path / "LibriSpeech" / "dev-clean" / "84" / "100", out)
    with pytest.raises(InputError, match="cannot be listed"):
        prepare(tmp_path / "none", out)
    with pytest.raises(InputError, match="fewer than two speakers"):
        prepare(tree / "dev-clean", out)
    assert not out.exists()
