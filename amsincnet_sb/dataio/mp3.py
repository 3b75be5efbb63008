"""MP3 files, of whose length libsndfile knows what a header says or it guesses."""

import bisect
import functools
import io
import os
import re
from contextlib import contextmanager
from typing import NamedTuple

import soundfile

from amsincnet_sb.dataio.compressed import identity
from amsincnet_sb.utils.errors import InputError

__all__ = ["whole_mp3"]

LARGEST_FRAME = 2881  # bytes
BLOCK = 2**16  # bytes in which frames are looked for at once
# The begin of a frame, which has a layer and a bit rate.
_HEAD = re.compile(rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff][\x10-\xef]")
_RATES = (44100, 48000, 32000)  # Hz, of MPEG 1; half and a quarter of others
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBITS = {  # by whether it is MPEG 1, and by layer
    (True, 1): range(32, 449, 32),
    (True, 2): (32, *_LOW[5:12], 160, 192, 224, 256, 320, 384),
    (True, 3): (*_LOW[3:12], 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, *range(64, 193, 16), 224, 256),
    (False, 2): _LOW,
    (False, 3): _LOW,
}


class _Mp3(NamedTuple):
    """The frames of an MP3."""

    frames: int  # without the header's
    samples: int  # of a frame and channel
    told: int  # frames that the header tells; 0 without
    first: int  # bytes of the first frame
    parts: tuple  # of the file, bytes from and to, that are frames
    other: int | None  # byte from which on they are of another kind


class _Frame(NamedTuple):
    """What the first bytes of a frame say."""

    kind: tuple | None  # the same for all frames; None of what is none
    size: int  # bytes
    samples: int  # of a channel


@contextmanager
def whole_mp3(path, sound):
    """An MP3 opened such that every frame is read, and its samples.

    libsndfile believes the header that may tell the length (Xing, Info), and
    leaves out what was joined behind. Without one it guesses from the size of
    the first frame, leaves out what is behind the guess, and may give up where
    bytes between frames are none. `sound`, it opened, is used if all is well.
    """
    mp3 = _frames(*identity(path))
    _check(path, mp3)
    parts, told = mp3.parts, mp3.told == mp3.frames
    samples = sound.frames if told else mp3.frames * mp3.samples
    if len(parts) == 1 and (told or not mp3.told and samples <= sound.frames):
        yield sound, samples
        return
    if mp3.told and not told:  # without the header
        parts = ((parts[0][0] + mp3.first, parts[0][1]), *parts[1:])
    guessed = 0 if told else (mp3.frames + 1) * LARGEST_FRAME
    with (
        _Parts(path, parts, guessed) as file,
        soundfile.SoundFile(file) as joined,
    ):
        yield joined, joined.frames if told else samples


def _check(path, mp3):
    """Raise InputError for an MP3 of which something cannot be read."""
    if mp3 is None:
        raise InputError(
            f"{path}: it is an MP3 whose frames cannot be counted, as of a "
            "free bit rate; convert it to WAV."
        )
    if mp3.other is not None:
        raise InputError(
            f"{path}: from byte {mp3.other} on it is an MP3 of another sample "
            "rate or number of channels; convert it to WAV."
        )
    if mp3.told > mp3.frames:
        raise InputError(
            f"{path}: it is cut short, with {mp3.frames} of the {mp3.told} "
            "frames that its header promises; copy it again."
        )


@functools.lru_cache(maxsize=4096)  # a file is asked about for each chunk of it
def _frames(path, *state):
    """The frames of an MP3 as _Mp3, or None where there are none."""
    with open(path, "rb") as file:
        at = _find(file, 0)
        if at is None:
            return None
        first = _frame(_head(file, at))
        told = _told(file, at)
        frames, parts, other = -(told is not None), [], None
        while at is not None:
            count, end = _row(file, at, first.kind)
            frames += count
            parts.append((at, end))
            at = _find(file, end, first.kind)
            if at is not None and _frame(_head(file, at)).kind != first.kind:
                other, at = at, None
    return _Mp3(
        frames, first.samples, told or 0, first.size, tuple(parts), other
    )


def _row(file, at, kind):
    """How many frames of a kind follow each other, and where they end."""
    count, end = 0, os.fstat(file.fileno()).st_size
    frame = _frame(_head(file, at))
    while frame.kind == kind and at + frame.size <= end:
        count, at = count + 1, at + frame.size
        frame = _frame(_head(file, at))
    return count, at


def _find(file, at, kind=None):
    """Where the next frames are, or None.

    It takes two in a row to tell them from other bytes, and three if they
    are not of the kind that there was.
    """
    at = _behind_tags(file, at)
    while True:
        file.seek(at)
        block = file.read(BLOCK)
        for found in _HEAD.finditer(block):
            begin = behind = at + found.start()
            frame = _frame(_head(file, begin))
            if not frame.kind:
                continue
            for _ in range(1 if kind in (None, frame.kind) else 2):
                behind += _frame(_head(file, behind)).size
                if _frame(_head(file, behind)).kind != frame.kind:
                    break
            else:
                return begin
        if len(block) < BLOCK:
            return None
        at += BLOCK - 2  # a head may lie across


def _behind_tags(file, at):
    """Where the ID3 tags that begin here end: pictures may look like frames."""
    while True:
        file.seek(at)
        tag = file.read(10)
        if tag.startswith(b"TAG"):
            at += 128
        elif re.match(rb"ID3.{3}[\0-\x7f]{4}", tag, re.DOTALL):
            at += 10 + sum(byte << 7 * i for i, byte in enumerate(tag[:5:-1]))
        else:
            return at


def _told(file, at):
    """How many frames a header tells, 0 if it does not, or None without one.

    As mpg123 reads it, which is in libsndfile: others than LAME's it does not
    know.
    """
    head = _head(file, at)
    first, mono = head >> 19 & 3 == 3, head >> 6 & 3 == 3
    begin = 4 + (9 if mono else 17) + first * (8 if mono else 15)
    file.seek(at)
    data = file.read(begin + 12)
    if any(data[6:begin]) or data[begin : begin + 4] not in (b"Xing", b"Info"):
        return None
    return (
        int.from_bytes(data[begin + 8 :], "big") if data[begin + 7] & 1 else 0
    )


def _head(file, at):
    """The first four bytes of a frame as a number, or 0 at the end."""
    file.seek(at)
    head = file.read(4)
    return int.from_bytes(head, "big") if len(head) == 4 else 0


@functools.lru_cache(maxsize=4096)
def _frame(head):
    """What the first four bytes of a frame, as a number, say."""
    if not _HEAD.match(head.to_bytes(4, "big")) or head >> 10 & 3 == 3:
        return _Frame(None, 0, 0)
    version, layer = head >> 19 & 3, 4 - (head >> 17 & 3)
    kbits = _KBITS[version == 3, layer][(head >> 12 & 15) - 1]
    rate = _RATES[head >> 10 & 3] >> {3: 0, 2: 1}.get(version, 2)
    padding = head >> 9 & 1
    samples = (
        384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    )
    size = samples * 125 * kbits // rate + padding
    if layer == 1:  # counted in words
        size = 4 * (12_000 * kbits // rate + padding)
    kind = head & 0xFFFE0C00, head >> 6 & 3 == 3
    return _Frame(kind, size, samples)


class _Parts(io.RawIOBase):
    """Parts of a file in a row, with zeros behind them up to a length."""

    def __init__(self, path, parts, length):
        self._file = open(path, "rb")
        self._parts, self._begins, self._at = parts, [0], 0
        for begin, end in parts:
            self._begins.append(self._begins[-1] + end - begin)
        self._length = max(length, self._begins[-1])

    def readable(self):
        """As of io.RawIOBase."""
        return True

    def seekable(self):
        """As of io.RawIOBase."""
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        """As of io.RawIOBase."""
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def readinto(self, buffer):
        """As of io.RawIOBase: of one part at a time."""
        buffer = memoryview(buffer)
        part = bisect.bisect(self._begins, self._at) - 1
        if part < len(self._parts):
            begin, end = self._parts[part]
            begin += self._at - self._begins[part]
            self._file.seek(begin)
            count = self._file.readinto(buffer[: end - begin])
        else:
            count = max(0, min(len(buffer), self._length - self._at))
            buffer[:count] = bytes(count)
        self._at += count
        return count

    def close(self):
        """As of io.RawIOBase."""
        self._file.close()
        super().close()
