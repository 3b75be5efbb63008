"""The lists and labels of the authors' code: ``*.scp``, ``*_labels.npy``.

The labels are a pickle in a numpy array. A pickle runs code of its author when
it is read in the ordinary way; nothing in these runs here.
"""

import io
import pickle
import re
from pathlib import PurePosixPath

from amsincnet_sb.dataio.lists import Spellings, read_text
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file

__all__ = ["read_labels", "read_scp", "scp_rows", "speaker_table"]

MAX_BYTES = 128 * 2**20  # twice what all of VoxCeleb takes

# Of an array of one object; numpy itself need not look at it.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '\|O[48]?', 'fortran_order': (?:True|False), "
    rb"'shape': \(\),? *\} *\n",
    re.DOTALL,
)
_KNOWN = re.compile(
    r"numpy\._?core\.multiarray\.(_reconstruct|scalar)|numpy\.(ndarray|dtype)"
    r"|_codecs\.encode"
)
# The instructions that numpy.save writes for a dictionary of labels.
_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 "
    "LONG4 BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINBYTES "
    "SHORT_BINBYTES EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_INTEGERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}


def read_labels(path):
    """Read a dictionary of labels, ``TIMIT_labels.npy``, without running it.

    Arguments
    ---------
    path : str or Path
        As saved by ``numpy.save``, in Python 2 or 3. InputError if it is
        larger than 128 MiB or holds anything else.

    Returns
    -------
    dict
        Wav path as in the lists of utterances (str) -> class index (int).

    Example
    -------
    >>> import numpy as np
    >>> path = getfixture("tmp_path") / "labels.npy"
    >>> np.save(path, {"train/dr1/fcjf0/si1027.wav": 0})
    >>> read_labels(path)
    {'train/dr1/fcjf0/si1027.wav': 0}
    """
    is_plain_file(path)  # a pipe would block
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read ({error.strerror})."
        ) from error
    header = _HEADER.match(data)
    try:
        if len(data) > MAX_BYTES:
            raise _RefusedError("it is larger than 128 MiB")
        if not header:
            raise _RefusedError("it does not start like one")
        return _Labels(data[header.end() :]).read()
    except _RefusedError as error:
        why = error
    except Exception:  # a damaged pickle may raise anything
        why = "it holds something else or is damaged"
    raise InputError(
        f"{path}: only a dictionary from wav path to class index, saved by "
        f"numpy, is read, but {why}."
    )


class _RefusedError(Exception):
    """Says what a pickle has that a dictionary of labels has not."""


class _StandIn:
    """In place of a function or class of numpy: keeps what it is given."""

    def __init__(self, name, args=()):
        self.name, self.args = name, args

    def __call__(self, *args):
        return _StandIn(self.name, args[:3])  # no more is of use

    def __setstate__(self, state):
        self.state = state


class _Labels(pickle._Unpickler):
    """Unpickles labels with stand-ins, so that there is nothing to run.

    numpy's own functions would not do: a crafted dtype makes an array of
    arbitrary pointers. Nor would the unpickler in C: it reserves whatever
    memory a file asks for.
    """

    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for (code,) in (getattr(pickle, n) for n in _INSTRUCTIONS.split())
    }

    def __init__(self, data):
        super().__init__(io.BytesIO(data), encoding="latin-1")

    def find_class(self, module, name):
        """A stand-in for one of the known names; refuse others."""
        path = f"{module}.{name}"
        if not _KNOWN.fullmatch(path):
            raise _RefusedError(f"it asks for {path!r}")
        return _StandIn(name)

    def load_setitem(self):
        """Enter one item into a dictionary."""
        self._fill([self.stack.pop(-2), self.stack.pop()])

    def load_setitems(self):
        """Enter several items into a dictionary."""
        self._fill(self.pop_mark())

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _fill(self, items):
        keys, values = items[::2], items[1::2]
        # Before they are hashed: a nested tuple may take for ever.
        if not all(type(key) is str for key in keys):
            raise _RefusedError("a key is not text")
        self.stack[-1].update(zip(keys, map(_index, values), strict=True))

    def read(self):
        """The dictionary in the array of one object."""
        _, shape, _, _, (labels,) = self.load().state
        if shape != () or type(labels) is not dict:
            raise _RefusedError("it is no array of one dictionary")
        return labels


def _index(value):
    """An int, or the int that numpy would make."""
    if type(value) is int:
        return value
    if type(value) is not _StandIn or value.name != "scalar":
        raise _RefusedError("a value is no whole number")
    dtype, data = value.args
    if type(data) is _StandIn:  # bytes as Python 2 reads them
        data = data.args[0]
    if type(data) is str:
        data = data.encode("latin-1")
    kind, order = dtype.args[0], dtype.state[1]
    if type(kind) is not str or kind not in _INTEGERS:
        raise _RefusedError("a value is no whole number")
    if len(data) != int(kind[1]):
        raise _RefusedError("a value is damaged")
    order = "big" if order == ">" else "little"
    return int.from_bytes(data, order, signed=kind[0] == "i")


def speaker_table(labels):
    """Name the classes of a dictionary of labels: index -> name, in order.

    A class is called after the folder of its files, as TIMIT's speakers are,
    if that tells all classes apart, and otherwise by its index, with zeros in
    front so that names sort like numbers. Raises InputError if there is no
    label, or a negative one.

    Example
    -------
    >>> speaker_table({"dr1/fcjf0/si1.wav": 0, "dr1/fdaw0/si2.wav": 1})
    {0: 'fcjf0', 1: 'fdaw0'}
    >>> speaker_table({"wav/0001.wav": 0, "wav/0002.wav": 1})
    {0: '0', 1: '1'}
    """
    if min(labels.values(), default=-1) < 0:
        raise InputError(
            "The labels are empty or hold a negative number, but classes are "
            "numbered from 0."
        )
    folders = {(n, PurePosixPath(wav).parent.name) for wav, n in labels.items()}
    classes = sorted({n for n, _ in folders})
    names = {name for _, name in folders}
    if len(folders) == len(classes) == len(names) and "" not in names:
        return dict(sorted(folders))
    return {n: f"{n:0{len(str(classes[-1]))}d}" for n in classes}


def read_scp(path):
    """The wav paths of a list, one a line; ``#`` starts a comment."""
    text = read_text(path, "give a list with one wav path a line")
    wavs = [line.strip() for line in text.splitlines()]
    wavs = [wav for wav in wavs if wav and not wav.startswith("#")]
    if not wavs:
        raise InputError(f"{path}: it names no file.")
    return wavs


def scp_rows(train_scp, test_scp, labels, data_folder):
    """The rows of a corpus as users of the authors' code describe theirs.

    Their files are cut to the speech already, so utterances are whole files.
    Names are found on the disk and among the labels in any case, because
    the authors' lists are in lower case and TIMIT's files often are not.

    Returns a list of (file, dict with path, speaker and split), in the order
    of the lists. Raises InputError if an utterance has no label, or a speaker
    of the test list is not in the training list.
    """
    labels = read_labels(labels)
    names, spellings = speaker_table(labels), Spellings(data_folder, str.lower)
    rows, learned = [], set()
    for split, scp in (("train", train_scp), ("test", test_scp)):
        for wav in read_scp(scp):
            label = labels.get(wav, labels.get(wav.lower()))
            if label is None:
                raise InputError(
                    f"{scp}: {wav} is not in the dictionary of labels."
                )
            if split == "train":
                learned.add(label)
            elif label not in learned:
                raise InputError(
                    f"{scp}: speaker {names[label]} has no utterance in "
                    f"{train_scp}, so nothing could be learned about them."
                )
            path = spellings.find(wav)
            row = {"path": path, "speaker": names[label], "split": split}
            rows.append((str(scp), row))
    return rows
