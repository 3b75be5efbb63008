"""Released dictionaries of labels, read without running their pickle."""

import pickletools
import re

from amsincnet_sb.utils.errors import InputError

__all__ = ["read_labels"]

MAX_BYTES = 128 * 2**20  # twice what all of VoxCeleb takes

# Of an array of one object; numpy itself need not look at it.
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '\|O[48]?', 'fortran_order': (?:True|False), "
    rb"'shape': \(\),? *\} *\n",
    re.DOTALL,
)
# The instructions of a pickle that push what they carry.
_PUSHED = set(
    "BININT BININT1 BININT2 INT LONG LONG1 LONG4 STRING BINSTRING "
    "SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINBYTES BINBYTES BINBYTES8".split()
)
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARRAY = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
_SCALAR = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
_KNOWN = _ARRAY | _SCALAR | {"numpy ndarray", "numpy dtype", "_codecs encode"}
_INTEGERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}


def read_labels(path):
    """Read a released dictionary of labels, ``TIMIT_labels.npy``.

    The file is a pickled dictionary in a numpy array. Its pickle is not run
    but read as a list of instructions, of which only those are understood
    that make a dictionary from text to whole numbers.

    Arguments
    ---------
    path : str or Path
        As saved by ``numpy.save``, in Python 2 or 3.

    Returns
    -------
    dict
        Wav path as in the lists of sentences (str) -> class index (int).

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
        return _read_pickled_dict(data[header.end() :])
    except _RefusedError as error:
        why = str(error)
    except (ValueError, LookupError, TypeError):
        why = "it is damaged"
    raise InputError(
        f"{path}: only a dictionary from wav path to class number, saved by "
        f"numpy, is read, but {why}."
    )


class _RefusedError(ValueError):
    """Says what a pickle has that a dictionary of labels has not."""


class _Made:
    """Stands for what a pickle would make by calling ``name``."""

    def __init__(self, name, args):
        self.name = name
        self.args = args
        self.state = None


class _Global(str):
    """Stands for what a pickle would import; never imported."""


def _read_pickled_dict(pickled):
    """The dictionary of an array pickled by numpy; _RefusedError otherwise."""
    stack, marks, memo = [], [], {}

    def since_mark():
        """Take what is above the last mark."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def set_items(items):
        """Put keys and values into the dictionary below them."""
        target = stack[-1]
        if type(target) is not dict:
            raise _RefusedError("it changes something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise _RefusedError("a key is not text")
            target[key] = _whole_number(value)

    for opcode, arg, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            break
        if name in _PUSHED:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "SETITEM":
            set_items([stack.pop(-2), stack.pop()])
        elif name == "SETITEMS":
            set_items(since_mark())
        elif name == "APPEND":
            item = stack.pop()
            if type(stack[-1]) is not list:
                raise _RefusedError("it appends to something that is no list")
            stack[-1].append(item)
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                arg = " ".join([stack.pop(-2), stack.pop()])
            if arg not in _KNOWN:
                raise _RefusedError(f"it asks for {arg!r}")
            stack.append(_Global(arg))
        elif name == "REDUCE":
            args, called = stack.pop(), stack.pop()
            if type(called) is not _Global or type(args) is not tuple:
                raise _RefusedError("it calls something that it may not")
            stack.append(_Made(called, args))
        elif name == "BUILD":
            state = stack.pop()
            if type(stack[-1]) is not _Made:
                raise _RefusedError("it changes something that it may not")
            stack[-1].state = state
        else:
            raise _RefusedError(f"its pickle uses {name}")

    (array,) = stack
    if type(array) is not _Made or array.name not in _ARRAY:
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
    if type(value) is not _Made or value.name not in _SCALAR:
        raise _RefusedError("a value is no whole number")
    dtype, data = value.args
    if type(data) is _Made and data.name == "_codecs encode":
        data = data.args[0]
    if type(data) is str:
        data = data.encode("latin-1")
    if type(dtype) is not _Made or type(data) is not bytes:
        raise _RefusedError("a value is no whole number")
    kind, order = dtype.args[0], dtype.state[1]
    # The type first: hashing a cunningly nested tuple takes for ever.
    if type(kind) is not str or kind not in _INTEGERS:
        raise _RefusedError("a value is no whole number")
    if len(data) != int(kind[1]):
        raise _RefusedError("a value is damaged")
    order = "big" if order == ">" else "little"
    return int.from_bytes(data, order, signed=kind[0] == "i")
