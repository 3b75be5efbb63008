"""lhotse's manifests, written by lhotse: recordings and supervisions, cuts."""

import json
import sys

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.corpus import prepare_own_corpus
from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.utils.errors import InputError

RATE = 8000
TURNS = [(s, k, 0.5 + k, 0.75) for s in ("ann", "bob") for k in range(4)]
EXPECTED = sorted((s, 4000 + k * RATE, 10000 + k * RATE) for s, k, *_ in TURNS)


@pytest.fixture
def lhotse():
    return pytest.importorskip("lhotse", reason="pip install lhotse")


@pytest.fixture
def corpus(lhotse, tmp_path):
    """(recordings, supervisions) of two people with a recording each."""
    recordings, supervisions = {}, []
    for seed, name in enumerate(("ann", "bob")):
        path = tmp_path / f"{name}.wav"
        wave = np.random.default_rng(seed).uniform(-0.5, 0.5, 5 * RATE)
        soundfile.write(path, wave, RATE)
        recordings[name] = lhotse.Recording.from_file(path)
    for name, k, start, duration in TURNS:
        supervisions.append(
            lhotse.SupervisionSegment(
                f"{name}-{k}", name, start, duration, speaker=name
            )
        )
    return (
        lhotse.RecordingSet.from_recordings(recordings.values()),
        lhotse.SupervisionSet.from_segments(supervisions),
    )


def prepared(source, folder):
    """(speaker, first sample, the one after the last) of each utterance."""
    prepare_own_corpus(source, folder / "out")
    rows = [
        u
        for split in ("train", "test")
        for u in read_manifest(folder / "out" / f"{split}.csv")
    ]
    return sorted((u.spk_id, u.start, u.stop) for u in rows)


@pytest.mark.parametrize("end", [".jsonl", "_all.jsonl.gz"])
def test_recordings_and_supervisions(corpus, tmp_path, end):
    names = [f"tiny_{kind}{end}" for kind in ("recordings", "supervisions")]
    (tmp_path / "data").mkdir()
    for items, name in zip(corpus, names):
        items.to_file(tmp_path / "data" / name)
    for source in (tmp_path / "data", *(tmp_path / "data" / n for n in names)):
        assert prepared(source, tmp_path) == EXPECTED
    listing = list_corpus(tmp_path / "data")
    assert listing.kind == f"lhotse manifest of {names[0]} and {names[1]}"
    (tmp_path / "data" / names[0]).unlink()
    with pytest.raises(InputError, match=f"lhotse's {names[0]} is not beside"):
        list_corpus(tmp_path / "data")


def test_cuts(corpus, lhotse, tmp_path):
    """Whole recordings, and windows that cut supervisions in two."""
    recordings, supervisions = corpus
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions)
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    assert prepared(tmp_path / "cuts.jsonl.gz", tmp_path) == EXPECTED
    cuts.cut_into_windows(1.0).to_file(tmp_path / "cuts.jsonl.gz")
    halves = [
        part
        for s, start, stop in EXPECTED
        for part in ((s, start, start + 4000), (s, start + 4000, stop))
    ]
    assert prepared(tmp_path / "cuts.jsonl.gz", tmp_path) == halves


def test_supervisions_outside_their_cuts(corpus, lhotse, tmp_path):
    cuts = list(lhotse.CutSet.from_manifests(*corpus))
    late = lhotse.SupervisionSegment("late", "ann", 9.0, 1.0, speaker="ann")
    cuts[0].supervisions.append(late)
    path = tmp_path / "cuts.jsonl"
    lhotse.CutSet.from_cuts(cuts).to_file(path)
    listing = list_corpus(path)
    why = f"it is outside its cut {cuts[0].id}"
    assert listing.left_out == [("late", why)] and len(listing.utterances) == 8
    for kept, words in (([late], "supervisions within them"), ([], "no sup")):
        cuts[0].supervisions = kept
        lhotse.CutSet.from_cuts(cuts[:1]).to_file(path)
        with pytest.raises(InputError, match=f"{words}.*, which say who"):
            list_corpus(path)


@pytest.mark.parametrize("key", ["recording_id", "sources", "supervisions"])
def test_lists_with_keys_of_lhotse(tmp_path, key):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(RATE), RATE)
    rows = [{"audio_filepath": f"{s}.wav", "spk": s, key: [1]} for s in "ab"]
    path = tmp_path / "l.jsonl"
    path.write_text("\n" + "\n".join(map(json.dumps, rows)))
    assert list_corpus(path).kind == "JSON lines manifest"


def test_what_is_not_a_file_is_refused(corpus, lhotse, tmp_path):
    recordings, supervisions = corpus
    supervisions.to_file(tmp_path / "supervisions.jsonl")
    for source, words in (
        ({"type": "url", "source": "https://x.org/a.wav"}, "no single file"),
        ({"type": "command", "source": f"touch {tmp_path}/x"}, "not run"),
    ):
        with open(tmp_path / "recordings.jsonl", "w") as file:
            for item in recordings:
                row = item.to_dict()
                row["sources"][0].update(source)
                file.write(json.dumps(row) + "\n")
        with pytest.raises(InputError, match=words):
            list_corpus(tmp_path / "recordings.jsonl")
    assert not (tmp_path / "x").exists()
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions)
    for changed, words in (
        (cuts.pad(9.0), "MixedCut is made of several"),
        (cuts.perturb_speed(1.1), "changed when it is read"),
    ):
        changed.to_file(tmp_path / "cuts.jsonl")
        with pytest.raises(InputError, match=words):
            list_corpus(tmp_path / "cuts.jsonl")


def test_a_damaged_manifest(lhotse, tmp_path):
    path = tmp_path / "cuts.jsonl"
    path.write_text('{"type": "MonoCut", "id": 3}\n')
    with pytest.raises(
        InputError, match="lhotse cannot read it.*path and a speaker"
    ):
        list_corpus(path)


def test_without_lhotse(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    monkeypatch.setitem(sys.modules, "lhotse.serialization", None)
    path = tmp_path / "cuts.jsonl"
    path.write_text('{"type": "MonoCut", "id": "a"}\n')
    with pytest.raises(
        InputError, match=r"pip install 'amsincnet_sb\[corpora\]'"
    ):
        list_corpus(path)
