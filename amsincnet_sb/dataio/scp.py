"""The lists and labels of the authors' code: ``*.scp``, ``*_labels.npy``.

The labels are a pickle in a numpy array. A pickle runs code of its author when
it is read in the ordinary way; nothing in these runs here.
"""

import contextlib
import io
import os
import pickle
import pickletools
import re
import struct
from pathlib import Path, PurePosixPath

from amsincnet_sb.dataio.lists import read_text
from amsincnet_sb.utils.errors import InputError

__all__ = ["read_labels", "read_scp", "scp_rows", "speaker_table"]

MAX_BYTES = 128 * 2**20  # twice what all of VoxCeleb takes

# Of an array of one object; numpy itself need not look at it.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '\|O[48]?', 'fortran_order': (?:True|False), "
    rb"'shape': \(\),? *\} *\n",
    re.DOTALL,
)
# The instructions that a dictionary of labels needs, of any protocol.
_INSTRUCTIONS = set(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 INT "
    "LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
_MODULES = "numpy.core.multiarray", "numpy._core.multiarray"
_ARRAY = {f"{module} _reconstruct" for module in _MODULES}
_SCALAR = {f"{module} scalar" for module in _MODULES}
_KNOWN = _ARRAY | _SCALAR | {"numpy ndarray", "numpy dtype", "_codecs encode"}
_INTEGERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}


def read_labels(path):
    """Read a dictionary of labels, ``TIMIT_labels.npy``, without running it.

    Arguments
    ---------
    path : str or Path
        As saved by ``numpy.save``, in Python 2 or 3.

    Returns
    -------
    dict
        Wav path as in the lists of utterances (str) -> class index (int).

    Raises
    ------
    InputError
        The file cannot be read, is larger than 128 MiB, or holds anything
        else.

    Example
    -------
    >>> import numpy as np
    >>> path = getfixture("tmp_path") / "labels.npy"
    >>> np.save(path, {"train/dr1/fcjf0/si1027.wav": 0})
    >>> read_labels(path)
    {'train/dr1/fcjf0/si1027.wav': 0}
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read ({error.strerror})."
        ) from error
    try:
        if len(data) > MAX_BYTES:
            raise _RefusedError("it is larger than 128 MiB")
        header = _HEADER.match(data)
        if not header:
            raise _RefusedError("it does not start like one")
        return _Labels(io.BytesIO(data[header.end() :])).labels()
    except _RefusedError as error:
        why = str(error)
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        struct.error,
    ):
        why = "it is damaged"
    raise InputError(
        f"{path}: only a dictionary from wav path to class index, saved by "
        f"numpy, is read, but {why}."
    )


class _RefusedError(ValueError):
    """Says what a pickle has that a dictionary of labels has not."""


class _Stub:
    """Stands for a class or function, and for the object it would make."""

    def __init__(self, name, args=None):
        self.name, self.args = name, args
        self.state = None

    def __call__(self, *args):
        return _Stub(self.name, args)

    def __setstate__(self, state):
        self.state = state


class _Dispatch(dict):
    """Python's own instructions, as far as they are needed."""

    def __missing__(self, code):
        name = pickletools.code2op[chr(code)].name
        raise _RefusedError(f"its pickle uses {name}")


class _Labels(pickle._Unpickler):
    """Python's slow unpickler, which can be told what it may do.

    The fast one would reserve any memory that a file asks for.
    """

    dispatch = _Dispatch(
        (ord(op.code), pickle._Unpickler.dispatch[ord(op.code)])
        for op in pickletools.opcodes
        if op.name in _INSTRUCTIONS
    )

    def __init__(self, file):
        super().__init__(file, encoding="latin-1")

    def find_class(self, module, name):
        name = f"{module} {name}"
        if name not in _KNOWN:
            raise _RefusedError(f"it asks for {name!r}")
        return _Stub(name)

    def load_setitem(self):
        self._set([self.stack.pop(-2), self.stack.pop()])

    def load_setitems(self):
        self._set(self.pop_mark())

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _set(self, items):
        target = self.stack[-1]
        if type(target) is not dict:
            raise _RefusedError("it changes something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The type first: hashing a cunningly nested tuple takes for ever.
            if type(key) is not str:
                raise _RefusedError("a key is not text")
            target[key] = _whole_number(value)

    def labels(self):
        """The dictionary in the array."""
        array = self.load()
        if type(array) is not _Stub or array.name not in _ARRAY:
            raise _RefusedError("it is no array")
        _, shape, _, _, items = array.state
        if shape != () or type(items) is not list or len(items) != 1:
            raise _RefusedError("it is no array of one thing")
        if type(items[0]) is not dict:
            raise _RefusedError("it is no dictionary")
        return items[0]


def _whole_number(value):
    """An int, or the int that numpy would make; _RefusedError otherwise."""
    if type(value) is int:
        return value
    if type(value) is not _Stub or value.name not in _SCALAR:
        raise _RefusedError("a value is no whole number")
    dtype, data = value.args
    if type(data) is _Stub and data.name == "_codecs encode":
        data = data.args[0]
    if type(data) is str:
        data = data.encode("latin-1")
    kind, order = dtype.args[0], dtype.state[1]
    if type(kind) is not str or kind not in _INTEGERS:
        raise _RefusedError("a value is no whole number")
    if type(data) is not bytes or len(data) != int(kind[1]):
        raise _RefusedError("a value is damaged")
    order = "big" if order == ">" else "little"
    return int.from_bytes(data, order, signed=kind[0] == "i")


def speaker_table(labels):
    """Name the classes of a dictionary of labels.

    A class is called after the folder of its files, as TIMIT's speakers are,
    if that tells all classes apart, and otherwise by its index, with zeros in
    front so that names sort like numbers.

    Arguments
    ---------
    labels : dict
        From :func:`read_labels`.

    Returns
    -------
    dict
        Class index -> name, in the order of the indices.

    Raises
    ------
    InputError
        There is no label, or a negative one.

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
    """Read a list of utterances, one wav path a line.

    Blank lines and lines that start with ``#`` are passed over.

    Raises InputError where it is not UTF-8 text, or names nothing.
    """
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

    Arguments
    ---------
    train_scp, test_scp : str or Path
        See :func:`read_scp`.
    labels : str or Path
        See :func:`read_labels`; speakers are named by :func:`speaker_table`.
    data_folder : str or Path
        Folder that the lists are relative to.

    Returns
    -------
    list of tuple
        (file, dict with path, speaker and split), in the order of the lists.

    Raises
    ------
    InputError
        An utterance has no label, or a speaker of the test list is not in the
        training list.
    """
    labels = read_labels(labels)
    names, root, folders = speaker_table(labels), Path(data_folder), {}
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
            path = _on_disk(root, wav, folders)
            row = {"path": path, "speaker": names[label], "split": split}
            rows.append((str(scp), row))
    return rows


def _on_disk(root, wav, folders):
    """A path relative to `root`, spelt as it is on the disk."""
    if os.path.exists(root / wav):
        return wav
    found = []
    for part in PurePosixPath(wav).parts:
        folder = root.joinpath(*found)
        if folder not in folders:
            with contextlib.suppress(OSError):
                folders[folder] = {n.lower(): n for n in os.listdir(folder)}
        found.append(folders.get(folder, {}).get(part.lower(), part))
    return "/".join(found)
