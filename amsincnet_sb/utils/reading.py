"""Files from strangers, whose sizes are known before they are read.

A few bytes can state a size that no memory holds: a compressed archive, the
header of an array, a call in a pickle. Whatever takes more memory than its
file has bytes, but for a small factor, is refused before it is allocated.
"""

import json
import math
import os
import pickletools
import re
import zipfile

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file

__all__ = [
    "LARGEST_TEXT",
    "TooLarge",
    "check_tensors",
    "read_arrays",
    "read_json",
    "read_tensors",
    "read_text",
]

LARGEST_TEXT = 2**24  # bytes; as JSON they take up to 20 times as much memory

# All that a pickle of tensors may name: none of these fills memory by itself.
# The compiler leaves marks on an optimizer's state, whose tensors are pickled
# with their type.
_HARMLESS = re.compile(
    r"collections \w+|_codecs encode|(builtins|__builtin__) (set|complex)"
    r"|torch (Size|Tensor|device|[a-z]\w*|\w+Storage)"
    r"|torch\.(storage|cuda) \w+Storage|torch\._tensor _rebuild_from_type_v2"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?)"
    r"|torch\.serialization _get_layout"
)


class TooLarge(ValueError):
    """A file states sizes that it does not have."""


def read_text(path, largest=LARGEST_TEXT):
    """The text in a plain file.

    Raises InputError where it is no plain file, not UTF-8, larger than so
    many bytes, or cannot be read.
    """
    if not is_plain_file(path):  # not a pipe, which would block
        raise InputError(f"{path} does not exist.")
    try:
        with open(path, "rb") as file:
            # Not its stated size: a file may grow while it is read.
            data = file.read(largest + 1)
        if len(data) > largest:
            raise InputError(f"{path} is larger than {largest} bytes.")
        return data.decode("utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be read: {reason}.") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not text in UTF-8.") from error


def read_json(path, advice, largest=LARGEST_TEXT):
    """The object, a dict, in a JSON file.

    Raises InputError, which ends with the ``advice``, where the file is
    missing, is no plain file, too large, no JSON, nested too deeply, or not an
    object.
    """
    try:
        found = json.loads(read_text(path, largest))
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}; {advice}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); {advice}."
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold a JSON object; {advice}.")
    return found


def read_arrays(path):
    """Name -> array of a file of ``numpy.savez``, without pickles.

    Raises whatever is wrong with it: OSError, or ValueError and others that
    NumPy raises.
    """
    import numpy as np

    is_plain_file(path)  # a pipe would block
    with open(path, "rb") as file:
        for name, member in _members(file):
            if name.endswith(".npy"):
                _check_array(member)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def read_tensors(path):
    """What ``torch.save`` has written: tensors in containers, on the CPU.

    Nothing in it is executed. Raises what :func:`check_tensors` raises, and
    whatever torch raises for a file that is damaged.
    """
    import torch

    check_tensors(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_tensors(path):
    """Raise TooLarge where a file of ``torch.save`` states too large sizes.

    It must hold as many bytes as its tensors have. ValueError where it names
    what may allocate memory by itself. It may be of any version.
    """
    import torch

    is_plain_file(path)  # a pipe would block
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        zipped = zipfile.is_zipfile(file)
        file.seek(0)
        if zipped:
            for name, member in _members(file):
                if name.endswith(".pkl"):
                    _check_calls(member)
        else:
            for _ in range(5):  # the last of them are before the values
                _check_calls(file)
            return
        file.seek(0)
        stated = torch.load(file, map_location="meta", weights_only=True)
    # Strides of zero can make a few bytes look like a huge tensor.
    if sum(x.numel() * x.element_size() for x in _tensors(stated)) > size:
        raise TooLarge("its tensors claim to be larger than the file")


def _members(file):
    """Yield name and content, a file, of a zip that was not compressed."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # Neither torch.save nor numpy.savez compresses.
        if sum(member.file_size for member in members) > size:
            raise TooLarge("it unpacks to more than its own size")
        for member in members:
            with archive.open(member) as content:
                yield member.filename, content


def _check_array(file):
    """Raise ValueError where a header states more than there is."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read = npy.read_array_header_1_0
    if version != (1, 0):
        read = npy.read_array_header_2_0
    shape, _, dtype = read(file)
    # No elements of no size either, because a list of them has one.
    stated = math.prod(shape) * max(dtype.itemsize, 1)
    if stated > len(file.read()):
        raise TooLarge("an array states more than there is")


def _check_calls(file):
    for operation, value, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and not _HARMLESS.fullmatch(value):
            raise ValueError(f"it names {value.replace(' ', '.')}")


def _tensors(tree):
    """All tensors in nested containers, each once."""
    rest, seen = [tree], set()
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if hasattr(one, "element_size"):
            yield one
        elif isinstance(one, (list, tuple, dict)):
            rest += one.values() if isinstance(one, dict) else one
