"""Compressed files that libsndfile takes for shorter than they are."""

import contextlib
import functools
import mmap
import os
import re

__all__ = ["ends_within_page", "mp3_samples"]

LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
LOOKED_AT = 2**18  # bytes of an MP3 in which its first frame has to be
# Version, layer III, a bit rate and a sample rate of an MP3's frame.
_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]", re.DOTALL)
_KBITS = {  # by index; of MPEG 1, and of MPEG 2 and 2.5
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BEHIND = (b"TAG", b"APETAGEX", bytes(8))  # what may follow the last frame
_RATES = {  # by the second byte
    0xFA: (44100, 48000, 32000),
    0xF2: (22050, 24000, 16000),
    0xE2: (11025, 12000, 8000),
}


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


def mp3_samples(path):
    """How many samples an MP3 without the header that tells it has.

    libsndfile guesses that from the first frame's bit rate. 0 where the bit
    rate varies: nothing behind the guess can be read. None where there is the
    header, or what is no frame lies between frames.
    """
    state = os.stat(path)
    return _counted(os.fspath(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)  # a file is asked about for each chunk of it
def _counted(path, size, changed):
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with contextlib.closing(data):
            return _count(data, size)


def _count(data, end):
    """See mp3_samples."""
    tag = data[:10]
    skipped = sum(byte << 7 * i for i, byte in enumerate(tag[:5:-1]))
    begin = 10 + skipped if tag.startswith(b"ID3") else 0
    frame = _FRAME.search(data, begin, begin + LOOKED_AT)
    if not frame:
        return None
    at = frame.start()
    if re.search(rb"Xing|Info|VBRI", data[at : at + 200]):
        return None
    samples, found = 0, set()
    while frame := _FRAME.match(data, at):
        _, kind, code = frame[0]
        first, rate = kind & 0xFE == 0xFA, code >> 2 & 3
        if rate == 3:  # none
            break
        found.add(kbits := _KBITS[first][(code >> 4) - 1])
        if len(found) > 1:
            return 0
        size = (
            (144_000 if first else 72_000) * kbits // _RATES[kind & 0xFE][rate]
        )
        at += size + (code >> 1 & 1)
        samples += (1152 if first else 576) if at <= end else 0
    rest = data[at : at + 8]
    return samples if not rest or rest.startswith(_BEHIND) else None
