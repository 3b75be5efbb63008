"""The lists and labels of the authors' code are read, and nothing runs."""

import os
import pickle
import resource
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from strangers import Call, refusal

from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.scp import read_labels, read_scp, speaker_table
from amsincnet_sb.utils.errors import InputError

# Labels ----------------------------------------------------------------------

TIMIT = {
    "train/dr1/fcjf0/si1027.wav": 0,
    "train/dr1/fcjf0/sx37.wav": 0,
    "test/dr2/mabc0/si1.wav": 461,
    "test/dr2/mabc0/é \N{BAR CHART}.wav": 2**70,
}
# What numpy writes before the pickle of one object.
HEADER = b"\x93NUMPY\x01\x00v\x00"
HEADER += b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
HEADER += b"\n"


def saved(path, thing, protocol=2):
    array = np.empty((), dtype=object)
    array[()] = thing
    path.write_bytes(HEADER + pickle.dumps(array, protocol))
    return path


@pytest.fixture
def npy(tmp_path):
    return tmp_path / "TIMIT_labels.npy"


def test_labels(npy):
    np.save(npy, TIMIT)
    assert npy.read_bytes().startswith(HEADER)
    assert read_labels(npy) == TIMIT


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8])
def test_label_values_of_any_integer_type(npy, protocol, kind):
    expected = {k: v % 200 for k, v in TIMIT.items()}
    saved(npy, {k: kind(v) for k, v in expected.items()}, protocol)
    labels = read_labels(npy)
    assert labels == expected
    assert {type(v) for v in labels.values()} == {int}


def test_labels_of_python_2(npy):
    # numpy.save(path, {'a/b.wav': 5, 'a/c.wav': numpy.int64(7)}) there
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\n"
        b"q\x02K\x00\x85U\x01b\x87Rq\x03(K\x01)cnumpy\ndtype\nq\x04U\x02O8K\x00"
        b"K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
        b"\x89]q\x06}q\x07(U\x07a/b.wavK\x05U\x07a/c.wavcnumpy.core.multiarray"
        b"\nscalar\nq\x08h\x04U\x02i8K\x00K\x01\x87Rq\x09(K\x03U\x01<NNNJ\xff"
        b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\x07\x00\x00\x00\x00\x00\x00"
        b"\x00\x86Rq\nuatb."
    )
    npy.write_bytes(HEADER + pickled)
    both = np.load(npy, allow_pickle=True, encoding="latin1").item()
    assert read_labels(npy) == both == {"a/b.wav": 5, "a/c.wav": 7}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "other, words",
    [
        ({"a": "1"}, "no whole number"),
        ({"a": True}, "no whole number"),
        ({"a": [1]}, "no whole number"),
        ({"a": np.float32(1)}, "whole"),
        ({"a": 1.5}, "something else"),
        ({"a": np.arange(1)}, "no whole number"),
        ({("a",): 1}, "a key is not text"),
        ([1, 2], "something else"),
        ("text", "no array of one dictionary"),
        (None, "no array of one dictionary"),
        (Path("x"), "Path"),
        (OrderedDict(a=1), "'collections.OrderedDict'"),
        ({"a": 1 + 0j}, "complex'"),
    ],
    ids=str,
)
def test_labels_of_anything_else(npy, other, words, protocol):
    reason = refusal(read_labels, saved(npy, other, protocol))
    assert reason.startswith("only a dictionary")
    # What is older than numpy's own protocol is not looked at closely.
    assert words in reason or protocol == 0


def test_arrays_are_no_labels(npy):
    for array in (np.arange(3), np.array([TIMIT], object), np.array(1)):
        np.save(npy, array, allow_pickle=True)
        assert "does not start like one" in refusal(read_labels, npy)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call",
    [
        lambda canary: Call(open, canary, "w"),
        lambda canary: Call(eval, f"open({canary!r}, 'w')"),
        lambda canary: Call(partial(open, canary, "w")),
        lambda canary: Call(np.save, canary, 1),
        lambda canary: Call(np.fromfunction, partial(open, canary, "w"), ()),
    ],
)
def test_nothing_in_the_labels_runs(npy, canary, protocol, call):
    call = call(canary)
    for thing in (call, {"a": call}, {(call,): 1}):
        saved(npy, thing, protocol)
        assert "asks for" in refusal(read_labels, npy) or protocol < 2
    npy.write_bytes(HEADER + pickle.dumps(call, protocol))
    refusal(read_labels, npy)


HUGE = b"\xff" * 4 + b"\x00" * 4  # 4 GiB
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n%sU\x01OtR"


@pytest.mark.parametrize(
    "pickled",
    [
        # (((…, …), (…, …)), …): 60 instructions, 2**60 leaves to hash or print
        b"}K\x01"
        + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
        + b"K\x05s.",
        ARRAY % (b"\x8a\x08" + HUGE + b"\x85") + b".",
        ARRAY % b")" + b"(K\x01\x8a\x08" + HUGE + b"\x85U\x01O\x89]tb.",
        b"\x96" + HUGE + b".",  # bytes to be filled
        b"r" + HUGE[:4] + b".",  # place of a memory of what was read
        b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"R.",
    ],
    ids=["keys", "array", "state", "bytes", "memory", "arguments"],
)
def test_labels_that_would_take_for_ever(npy, pickled):
    npy.write_bytes(HEADER + b"\x80\x02" + pickled)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(read_labels, npy)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100_000  # KiB


def test_labels_truncated_missing_or_too_large(npy):
    assert "No such file" in refusal(read_labels, npy)
    np.save(npy, TIMIT)
    whole = npy.read_bytes()
    for size in range(len(whole)):
        npy.write_bytes(whole[:size])
        refusal(read_labels, npy)
    os.truncate(npy, 129 * 2**20)  # a hole: takes no room
    assert "larger than" in refusal(read_labels, npy)


# Speakers and lists ----------------------------------------------------------


@pytest.mark.parametrize(
    "labels, names",
    [
        ({"b/x.wav": 11, "d/a/x.wav": 0, "a/y.wav": 0}, ["a", "b"]),
        # Two folders, one class; one folder, two classes; no folder.
        ({"a/x.wav": 0, "b/x.wav": 0, "c/x.wav": 11}, ["00", "11"]),
        ({"a/x.wav": 0, "a/y.wav": 11}, ["00", "11"]),
        ({"a/x.wav": 0, "y.wav": 11}, ["00", "11"]),
    ],
)
def test_names_of_speakers(labels, names):
    assert speaker_table(labels) == dict(zip((0, 11), names))


@pytest.mark.parametrize("labels", [{}, {"a/b.wav": -1}])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(InputError, match="numbered from 0"):
        speaker_table(labels)


def test_scp(tmp_path):
    path = tmp_path / "train.scp"
    path.write_bytes(
        b"\xef\xbb\xbftrain/a/1.wav\r\n\n   \n# a comment\n  train/b c/2.wav \n"
    )
    assert read_scp(path) == ["train/a/1.wav", "train/b c/2.wav"]


def test_scp_that_is_none(tmp_path):
    for content in (b"", b"\n# nothing\n", b"\xff\xfe\n"):
        (tmp_path / "train.scp").write_bytes(content)
        refusal(read_scp, tmp_path / "train.scp")
    refusal(read_scp, tmp_path)
    refusal(read_scp, tmp_path / "missing.scp")


@pytest.fixture
def corpus(tmp_path):
    """Files in mixed case, lists in lower case, labels."""
    labels, lists = {}, {"train": [], "test": []}
    for label, speaker in enumerate(("MDAB0", "FAKS0")):
        for part, name in (("TRAIN", "SX1"), ("TRAIN", "SX2"), ("TEST", "SI1")):
            wav = f"{part}/DR1/{speaker}/{name}.WAV"
            file = tmp_path / "corpus" / wav
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            labels[wav.lower()] = label
            lists[part.lower()].append(wav.lower())
    for part, wavs in lists.items():
        (tmp_path / f"{part}.scp").write_text("\n".join(wavs) + "\n")
    np.save(tmp_path / "labels.npy", labels)
    return tmp_path


def test_a_corpus_of_lists(corpus):
    listing = list_corpus(corpus, corpus / "corpus")
    assert listing.kind == "folder of .scp lists and .npy labels"
    both = "mdab0 mdab0 faks0 faks0 mdab0 faks0".split()
    assert [u.speaker for u in listing.utterances] == both
    splits = [u.split for u in listing.utterances]
    assert splits == 4 * ["train"] + 2 * ["test"]
    second = listing.utterances[1]
    assert second.wav == second.id == "TRAIN/DR1/MDAB0/SX2.WAV"
    assert (second.start, second.stop) == (0, None)


@pytest.mark.parametrize(
    "line, words",
    [
        ("test/dr1/nobody/si1.wav", "dictionary of labels"),
        ("test/dr1/mdab0/si1.wav", "occurs twice"),
        ("../secret.wav", "outside the data folder"),
        ("test/dr1/mcpm0/si1.wav", "no utterance in"),
    ],
)
def test_lists_that_do_not_fit(corpus, line, words):
    labels = read_labels(corpus / "labels.npy")
    labels["../secret.wav"] = 0
    labels["test/dr1/mcpm0/si1.wav"] = 2
    np.save(corpus / "labels.npy", labels)
    (corpus / "secret.wav").touch()
    with open(corpus / "test.scp", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=words):
        list_corpus(corpus, corpus / "corpus")
