"""Audio that comes bit by bit: raw samples or WAV from a pipe."""

import re
import struct
from math import ceil, gcd

import numpy as np
import torch

from amsincnet_sb.dataio.audio import (
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    SILENT,
    STREAMED,
    STREAMED_64,
    check_channel,
    check_peak,
    resample,
    silence,
)
from amsincnet_sb.utils.errors import InputError

__all__ = ["read_stream"]

PIECE = 2**15  # bytes at once, where so many have come
TYPES = {  # format and bits of WAV -> samples, full scale
    (1, 8): ("u1", 128),
    (1, 16): ("<i2", 2**15),
    (1, 24): ("<i3", 2**31),  # not numpy's; behind a byte of zeros
    (1, 32): ("<i4", 2**31),
    (3, 32): ("<f4", 1),
    (3, 64): ("<f8", 1),
}
# How something that is neither raw nor WAV begins. Of MP3 without tags the
# frame's header, which loud samples alone could look like.
ELSE = {
    rb"fLaC": "FLAC",
    rb"OggS": "Ogg",
    rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xeb]": "MP3",
    rb"FORM": "AIFF",
    rb"RIFX|RIFF": "another kind of RIFF",
    rb"riff\x2e\x91\xcf\x11": "W64",
    rb"caff": "CAF",
    rb"NIST": "SPHERE",
    rb"\.snd": "AU",
    rb"....ftyp": "MP4",
    rb"\x1aE\xdf\xa3": "Matroska or WebM",
    rb"[\t\n\r -~]{12}": "text",
}
_CHUNK = re.compile(rb"[ -~]{4}...[\x00\x01]", re.DOTALL)  # name, size
EDGE = 0.02  # seconds; more than the resampling filter looks at


def read_stream(file, rate, sample_rate, channel=None, name="-"):
    """Yield a waveform ``[time]`` in pieces as they come, to the end.

    Arguments
    ---------
    file : binary file
        With WAV, or samples of 16 bits, little endian, of one channel. Half a
        sample at the end is left out, and so is what a WAV has behind its
        data. A size that says that there is no end, as those of a pipe do, or
        0, or that more audio follows, is not taken for one.
    rate : int or None
        In Hz, of samples without a header; ``sample_rate`` if not given. A
        header must say the same.
    sample_rate : int
        In Hz, of what is returned.
    channel : int, optional
        Of several, counted from 1, in place of their mean.
    name : str
        Of the stream, for messages.

    Raises
    ------
    InputError
        It is empty, has samples that are NaN, infinite or far beyond full
        scale, or is in another format or of another rate; or, behind all
        pieces, it breaks off, or was silent.

    Example
    -------
    >>> import io
    >>> [*read_stream(io.BytesIO(bytes([0, 64, 0, 192])), 8000, 8000)]
    [tensor([ 0.5000, -0.5000])]
    """
    head = _exactly(file, 12)
    (kind, channels), size = (TYPES[1, 16], 1), None
    # Or the beginning of one, which is cut short.
    if head[:4] in (b"RIFF", b"RF64") and b"WAVE".startswith(head[8:]):
        kind, channels, found, size = _header(file, name)
        if rate not in (None, found):
            raise InputError(
                f"{name}: its header says {found} samples per second, not "
                f"{rate}; leave out --rate, which is for raw samples."
            )
        head, rate = b"", found
    for magic, format in ELSE.items():
        if re.match(magic, head, re.DOTALL):
            raise InputError(
                f"{name}: it is {format}, not WAV or raw samples; decode it "
                "first, as in ffmpeg -i FILE -f wav - |."
            )
    check_channel(name, channel, channels)
    change = _Resampler(name, rate or sample_rate, sample_rate)
    empty, before, after = True, _Range(), _Range()
    data = _Data(file, head, size)
    for samples in _samples(data, kind, channels):
        empty = False
        before.add(samples)
        samples = (
            samples.mean(1) if channel is None else samples[:, channel - 1]
        )
        after.add(samples)
        check_peak(name, abs(samples).max())
        wave = change(torch.from_numpy(samples.astype(np.float32)))
        if len(wave):
            yield wave
    if empty:
        raise InputError(f"{name}: it holds no samples; check what writes it.")
    wave = change.rest()
    if len(wave):
        yield wave
    if data.missing:
        raise InputError(
            f"{name}: it breaks off, {data.missing} of the {size} bytes of data "
            "that its header promises are missing."
        )
    if after.silent:
        mixed = channels > 1 and channel is None
        raise silence(name, cancelled=mixed and not before.silent)


class _Range:
    """Between what values the samples of each channel have been so far."""

    def __init__(self):
        self.low, self.high = np.inf, -np.inf

    def add(self, samples):
        """More of them, ``[time, ...]``."""
        self.low = np.minimum(self.low, samples.min(0))
        self.high = np.maximum(self.high, samples.max(0))

    @property
    def silent(self):
        """Whether no channel has had a signal."""
        return bool((self.high - self.low <= SILENT).all())


def _exactly(file, count):
    """So many bytes, fewer at the end of the file."""
    found = b""
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    return found


def _header(file, name):
    """Type of the samples, channels, rate and bytes of a WAV; reads to them.

    None in place of a number of bytes that nobody knew.
    """
    layout, large = None, None
    while True:
        head = _exactly(file, 8)
        if len(head) < 8:
            raise InputError(f"{name}: its header is cut short.")
        kind, size = head[:4], struct.unpack("<I", head[4:])[0]
        if kind == b"data":
            break
        size += size % 2
        content = _exactly(file, min(size, 2**10))
        size -= len(content)
        while size and (skipped := file.read(min(PIECE, size))):
            size -= len(skipped)
        if kind == b"fmt " and len(content) >= 16:
            layout = struct.unpack("<HHIIHH", content[:16])
            if layout[0] == 0xFFFE and len(content) >= 26:
                layout = struct.unpack("<H", content[24:26]) + layout[1:]
        if kind == b"ds64" and len(content) >= 16:  # of more than 4 GB
            large = struct.unpack("<Q", content[8:16])[0]
    code, channels, rate, _, _, bits = layout or (0,) * 6
    right = MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS
    if (code, bits) not in TYPES or not right:
        raise InputError(
            f"{name}: its header says {channels} channels of {bits} bits in "
            f"format {code} at {rate} Hz; 8, 16, 24 or 32 bits, or floating "
            "point, are read."
        )
    endless = not 0 < size < STREAMED
    if endless:
        size = large if large and large < STREAMED_64 else None
    return TYPES[code, bits], channels, rate, size


class _Data:
    """The bytes of a stream as they come, ``size`` of them if that is known.

    ``missing`` are those that did not come.
    """

    def __init__(self, file, begun, size):
        self.read = getattr(file, "read1", file.read)
        self.file, self.begun, self.size = file, begun, size
        self.missing = size or 0

    def __iter__(self):
        yield self.begun
        while self.missing:
            found = self.read(min(PIECE, self.missing))
            if not found:
                return
            self.missing -= len(found)
            yield found
        if self.size:
            pad = self.size % 2
            behind = _exactly(self.file, pad + 8)
            # The size was wrong unless another chunk follows, or nothing.
            more = len(behind) == pad + 8 and not _CHUNK.match(behind[pad:])
            yield behind if more else b""
            while not more and self.read(PIECE):
                pass
        while found := self.read(PIECE):
            yield found


def _samples(data, kind, channels):
    """Samples ``[time, channels]`` as they come; full scale is 1."""
    wide, full = kind[0] == "<i3", kind[1]
    dtype = np.dtype("<i4" if wide else kind[0])
    size = (3 if wide else dtype.itemsize) * channels
    left = b""
    for piece in data:
        left += piece
        whole = len(left) // size * size
        if whole:
            found = left[:whole]
            if wide:
                found = np.frombuffer(found, np.uint8).reshape(-1, 3)
                found = np.pad(found, ((0, 0), (1, 0))).tobytes()
            found = np.frombuffer(found, dtype).astype(np.float64)
            offset = full if dtype.kind == "u" else 0
            yield ((found - offset) / full).reshape(-1, channels)
        left = left[whole:]


class _Resampler:
    """Changes the rate of a waveform that comes in pieces."""

    def __init__(self, name, rate, sample_rate):
        self.given = name, rate, sample_rate
        # So many samples last as long as a whole number of the others.
        self.unit = rate // gcd(rate, sample_rate)
        self.edge = self.unit * ceil(EDGE * rate / self.unit)
        self.kept = torch.zeros(self.edge)

    def __call__(self, wave):
        name, rate, sample_rate = self.given
        if rate == sample_rate:
            return wave
        self.kept = torch.cat([self.kept, wave])
        whole = (len(self.kept) - 2 * self.edge) // self.unit * self.unit
        if whole <= 0:
            return wave[:0]
        taken = self.kept[: whole + 2 * self.edge]
        self.kept = self.kept[whole:]
        made = resample(name, taken, rate, sample_rate)
        first = self.edge * sample_rate // rate
        return made[first : first + whole * sample_rate // rate]

    def rest(self):
        """What is left at the end."""
        _, rate, sample_rate = self.given
        if rate == sample_rate:
            return self.kept[:0]
        return self(torch.zeros(self.edge + self.unit - 1))
