"""Compressed files that libsndfile takes for shorter than they are."""

import os
import re

__all__ = ["ends_within_page", "has_unknown_length"]

LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
LOOKED_AT = 2**18  # bytes of an MP3, half a minute of a variable bit rate
# Version, layer III, a bit rate and a sample rate of an MP3's frame.
_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]", re.DOTALL)
_KBITS = {  # by index; of MPEG 1, and of MPEG 2 and 2.5
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
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


def has_unknown_length(path):
    """Whether an MP3 has a variable bit rate, and no header with its length.

    The length is guessed from the first frame's bit rate then, and nothing
    behind it can be read.
    """
    with open(path, "rb") as file:
        tag = file.read(10)
        size = sum(byte << 7 * i for i, byte in enumerate(tag[:5:-1]))
        file.seek(10 + size if tag.startswith(b"ID3") else 0)
        data = file.read(LOOKED_AT)
    frame, found = _FRAME.search(data), set()
    if frame and re.search(rb"Xing|Info|VBRI", data[frame.start() :][:200]):
        return False
    while frame and len(found) < 2:
        _, kind, code = frame[0]
        first, rate = kind & 0xFE == 0xFA, code >> 2 & 3
        if rate == 3:  # none
            break
        found.add(kbits := _KBITS[first][(code >> 4) - 1])
        size = (
            (144_000 if first else 72_000) * kbits // _RATES[kind & 0xFE][rate]
        )
        frame = _FRAME.match(data, frame.start() + size + (code >> 1 & 1))
    return len(found) > 1
