"""Compressed files that libsndfile takes for shorter than they are, or endless."""

import functools
import os
import re
from contextlib import contextmanager

import soundfile

__all__ = [
    "counted",
    "ends_within_page",
    "has_further_streams",
    "identity",
]

LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
BLOCK = 2**20  # bytes or samples looked at at once
_PAGE = re.compile(rb"OggS\0([\0-\7])")


def identity(path):
    """What a file is known by as long as it does not change; first its path."""
    state = os.stat(path)
    return (
        os.fspath(path),
        state.st_dev,
        state.st_ino,
        state.st_size,
        state.st_mtime_ns,
    )


def ends_within_page(path):
    """Whether an Ogg file breaks off in a page, which is left out silently."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - LARGEST_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    whole = 27  # its header, with the number of sizes that follow
    if len(page) >= whole:
        whole += page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < whole


def has_further_streams(path):
    """Whether an Ogg file has streams in a row: the first alone is read."""
    return _has_further_streams(*identity(path))


@functools.lru_cache(maxsize=4096)  # a file is asked about for each chunk of it
def _has_further_streams(path, *state):
    begun, tail = False, b""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for page in _PAGE.finditer(tail + block):
                # Of a stream, which may be one of several side by side.
                first = page[1][0] & 2
                if first and begun:
                    return True
                begun = begun or not first
            tail = block[1 - len(b"OggS\0\0") :]
    return False


@contextmanager
def counted(path):
    """A file opened whose header tells no length, and its samples.

    As of FLAC that was written to a pipe. Raises soundfile's errors.
    """
    samples = _decoded_samples(*identity(path))
    with _Sequential(os.fsencode(path)) as sound:
        yield sound, samples


@functools.lru_cache(maxsize=4096)
def _decoded_samples(path, *state):
    samples = 0
    with _Sequential(os.fsencode(path)) as sound:
        while count := len(sound.read(BLOCK // sound.channels, "float32")):
            samples += count
    return samples


class _Sequential(soundfile.SoundFile):
    """One that does not jump behind each block, which fails at an unknown end."""

    def seekable(self):
        """Never."""
        return False
