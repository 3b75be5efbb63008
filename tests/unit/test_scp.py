"""The lists and labels of the authors' code are read, and nothing runs."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import (
    HealthCheck,
    given,
    settings,
    strategies as st,
)

from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.scp import read_labels, read_scp, speaker_table
from amsincnet_sb.utils.errors import InputError


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = os.fspath(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    # It works where nobody is careful.
    pickle.loads(pickle.dumps(Bomb(path))).close()
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


def _check_message(caught, path, *words):
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    reason = message[len(f"{path}: ") :]
    assert reason.endswith(".") and "\n" not in reason
    assert ". " not in reason, "one sentence"
    for word in words:
        assert word in reason
    return reason


# Labels ----------------------------------------------------------------------

TIMIT = {
    "train/dr1/fcjf0/si1027.wav": 0,
    "train/dr1/fcjf0/sx37.wav": 0,
    "test/dr2/mabc0/si1.wav": 461,
}
# What numpy writes before the pickle of one object.
HEADER = b"\x93NUMPY\x01\x00v\x00"
HEADER += b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
HEADER += b"\n"


def _npy(path, thing, protocol=2):
    array = np.empty((), dtype=object)
    array[()] = thing
    path.write_bytes(HEADER + pickle.dumps(array, protocol))
    return path


@pytest.fixture
def npy(tmp_path):
    return tmp_path / "TIMIT_labels.npy"


def _labels_refusal(path, *words):
    with pytest.raises(InputError) as caught:
        read_labels(path)
    return _check_message(caught, path, *words)


def test_labels(npy):
    np.save(npy, TIMIT)
    assert npy.read_bytes().startswith(HEADER)
    assert read_labels(npy) == TIMIT


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "kind", [int, np.int64, np.int32, np.int16, np.uint8, np.dtype(">i8").type]
)
def test_label_values_of_any_integer_type(npy, protocol, kind):
    expected = {k: v % 200 for k, v in TIMIT.items()}
    _npy(npy, {k: kind(v) for k, v in expected.items()}, protocol)
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


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1.5},
        {"a": True},
        {"a": "1"},
        {"a": None},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": np.float32(1)},
        {"a": np.bool_(True)},
        {"a": np.arange(1)},
        {1: 1},
        {b"a": 1},
        {("a",): 1},
        [1, 2],
        "text",
        7,
        None,
        Path("x"),
        OrderedDict(a=1),
        {"a": 1 + 0j},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_labels_of_anything_else(npy, other, protocol):
    _labels_refusal(_npy(npy, other, protocol), "only a dictionary")


def test_arrays_are_no_labels(npy):
    for array in (np.arange(3), np.array([TIMIT], dtype=object), np.array(1)):
        np.save(npy, array, allow_pickle=True)
        _labels_refusal(npy)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("where", ["whole", "value", "key", "array", "bare"])
def test_a_bomb_in_the_labels(npy, canary, protocol, where):
    bomb = Bomb(canary)
    if where == "bare":  # neither header nor array
        npy.write_bytes(pickle.dumps(bomb, protocol))
    elif where == "array":
        npy.write_bytes(HEADER + pickle.dumps(bomb, protocol))
    else:
        thing = {"whole": bomb, "value": {"a": bomb}, "key": {(bomb,): 1}}
        _npy(npy, thing[where], protocol)
    _labels_refusal(npy)


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "numpy load", "numpy.core.multiarray x"],
)
def test_names_that_a_pickle_may_not_ask_for(npy, name):
    module, attribute = name.split()
    npy.write_bytes(HEADER + f"c{module}\n{attribute}\n.".encode())
    _labels_refusal(npy, repr(name))


def test_a_key_that_takes_for_ever_to_hash(npy):
    # (((…, …), (…, …)), …): 60 instructions, 2**60 leaves
    tuples = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    npy.write_bytes(HEADER + b"\x80\x02}K\x01" + tuples + b"K\x05s.")
    _labels_refusal(npy, "a key is not text")


def test_labels_truncated_or_missing(npy):
    _labels_refusal(npy, "No such file")
    np.save(npy, TIMIT)
    whole = npy.read_bytes()
    for size in range(len(whole)):
        npy.write_bytes(whole[:size])
        _labels_refusal(npy)


def test_labels_too_large(npy):
    with open(npy, "wb") as file:
        file.truncate(129 * 2**20)  # a hole: takes no room
    _labels_refusal(npy, "larger than")


FUZZ = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(st.dictionaries(st.text(), st.integers()), st.sampled_from([2, 4, 5]))
def test_any_labels_come_back(npy, labels, protocol):
    assert read_labels(_npy(npy, labels, protocol)) == labels


# Speakers and lists ----------------------------------------------------------


def test_speakers_are_called_after_their_folders():
    assert speaker_table(TIMIT) == {0: "fcjf0", 461: "mabc0"}


@pytest.mark.parametrize(
    "labels",
    [
        {"a/x.wav": 0, "b/x.wav": 0, "c/x.wav": 11},  # two folders, one class
        {"a/x.wav": 0, "a/y.wav": 11},  # one folder, two classes
        {"a/x.wav": 0, "y.wav": 11},  # no folder
    ],
)
def test_speakers_are_called_after_their_number(labels):
    assert speaker_table(labels) == {0: "00", 11: "11"}


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


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xff\xfe\n"])
def test_scp_that_is_none(tmp_path, content):
    path = tmp_path / "train.scp"
    path.write_bytes(content)
    for bad in (path, tmp_path, tmp_path / "missing.scp"):
        with pytest.raises(InputError) as caught:
            read_scp(bad)
        _check_message(caught, bad)


@pytest.fixture
def corpus(tmp_path):
    """Files in mixed case, lists in lower case, labels."""
    labels = {}
    for part, names in {"TRAIN": ["SX1", "SX2"], "TEST": ["SI1"]}.items():
        for label, speaker in enumerate(["MDAB0", "FAKS0"]):
            for n, name in enumerate(names):
                wav = f"{part}/DR1/{speaker}/{name}.WAV"
                path = tmp_path / "corpus" / wav
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(n).uniform(-0.1, 0.1, 4000 + n)
                soundfile.write(path, noise, 8000, format="WAV")
                labels[wav.lower()] = label
    for part in ("train", "test"):
        lines = [w for w in labels if w.startswith(part)]
        (tmp_path / f"{part}.scp").write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "labels.npy", labels)
    return tmp_path


def test_a_corpus_of_lists(corpus):
    listing = list_corpus(corpus, corpus / "corpus")
    assert [u.speaker for u in listing.utterances] == [
        *("mdab0", "mdab0", "faks0", "faks0"),
        *("mdab0", "faks0"),
    ]
    assert [u.split for u in listing.utterances] == ["train"] * 4 + ["test"] * 2
    second = listing.utterances[1]
    assert second.wav == second.id == "TRAIN/DR1/MDAB0/SX2.WAV"
    assert (second.start, second.stop) == (0, None)


@pytest.mark.parametrize(
    "line, words",
    [
        ("test/dr1/nobody/si1.wav", "dictionary of labels"),
        ("test/dr1/mdab0/si1.wav", "occurs twice"),
        ("train/dr1/mdab0/sx1.wav", "occurs twice"),
        ("test/dr1/mdab0/gone.wav", "does not exist"),
        ("../secret.wav", "outside the data folder"),
        ("test/dr1/mcpm0/si1.wav", "no utterance in"),
    ],
)
def test_lists_that_do_not_fit(corpus, line, words):
    labels = read_labels(corpus / "labels.npy")
    labels["test/dr1/mdab0/gone.wav"] = 0
    labels["../secret.wav"] = 0
    labels["test/dr1/mcpm0/si1.wav"] = 2
    np.save(corpus / "labels.npy", labels)
    (corpus / "secret.wav").touch()
    with open(corpus / "test.scp", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=words):
        list_corpus(corpus, corpus / "corpus")
