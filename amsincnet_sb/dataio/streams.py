"""Audio that comes bit by bit: raw samples or WAV from a pipe."""

import struct
from math import ceil, gcd

import numpy as np
import torch

from amsincnet_sb.dataio.audio import (
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    check_channel,
    resample,
)
from amsincnet_sb.utils.errors import InputError

__all__ = ["read_stream"]

PIECE = 2**15  # bytes at once, where so many have come
TYPES = {  # format and bits of WAV -> samples, full scale
    (1, 8): ("u1", 128),
    (1, 16): ("<i2", 2**15),
    (1, 32): ("<i4", 2**31),
    (3, 32): ("<f4", 1),
    (3, 64): ("<f8", 1),
}
ELSE = {  # first bytes of what is neither raw nor WAV
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"FORM": "AIFF",
    b"NIST": "SPHERE",
}
EDGE = 0.02  # seconds; more than the resampling filter looks at


def read_stream(file, rate, sample_rate, channel=None, name="-"):
    """Yield a waveform ``[time]`` in pieces as they come, to the end.

    Arguments
    ---------
    file : binary file
        With WAV, whose sizes need not be right, or samples of 16 bits, little
        endian, of one channel. Half a sample at the end is left out.
    rate : int
        In Hz, of samples without a header.
    sample_rate : int
        In Hz, of what is returned.
    channel : int, optional
        Of several, counted from 1, in place of their mean.
    name : str
        Of the stream, for messages.

    Raises
    ------
    InputError
        It is empty, has NaN or infinite samples, or is in another format.

    Example
    -------
    >>> import io
    >>> [*read_stream(io.BytesIO(bytes([0, 64, 0, 192])), 8000, 8000)]
    [tensor([ 0.5000, -0.5000])]
    """
    head = _exactly(file, 12)
    for magic, kind in ELSE.items():
        if head.startswith(magic):
            raise InputError(
                f"{name}: it is {kind}, not WAV or raw samples; decode it "
                "first, as in ffmpeg -i FILE -f wav - |."
            )
    kind, channels = TYPES[1, 16], 1
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        kind, channels, rate = _header(file, name)
        head = b""
    check_channel(name, channel, channels)
    change = _Resampler(name, rate, sample_rate)
    empty = True
    for samples in _samples(file, head, kind, channels):
        empty = False
        samples = (
            samples.mean(1) if channel is None else samples[:, channel - 1]
        )
        if not np.isfinite(samples).all():
            raise InputError(f"{name}: it contains NaN or infinite samples.")
        wave = torch.from_numpy(samples.astype(np.float32)).clamp(-1, 1)
        wave = change(wave)
        if len(wave):
            yield wave
    if empty:
        raise InputError(f"{name}: it holds no samples; check what writes it.")
    wave = change.rest()
    if len(wave):
        yield wave


def _exactly(file, count):
    """So many bytes, fewer at the end of the file."""
    found = b""
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    return found


def _header(file, name):
    """Type of the samples, channels and rate of a WAV; reads to its data."""
    layout = None
    while True:
        head = _exactly(file, 8)
        if len(head) < 8:
            raise InputError(f"{name}: its header is cut short.")
        kind, size = head[:4], struct.unpack("<I", head[4:])[0]
        if kind == b"data":
            break
        content = _exactly(file, min(size + size % 2, 2**16))
        if kind == b"fmt " and len(content) >= 16:
            layout = struct.unpack("<HHIIHH", content[:16])
            if layout[0] == 0xFFFE and len(content) >= 26:
                layout = struct.unpack("<H", content[24:26]) + layout[1:]
    code, channels, rate, _, _, bits = layout or (0,) * 6
    right = MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS
    if (code, bits) not in TYPES or not right:
        raise InputError(
            f"{name}: its header says {channels} channels of {bits} bits in "
            f"format {code} at {rate} Hz; 8, 16 or 32 bits, or floating point, "
            "are read."
        )
    return TYPES[code, bits], channels, rate


def _samples(file, begun, kind, channels):
    """Samples ``[time, channels]`` as they come; full scale is 1."""
    dtype, full = np.dtype(kind[0]), kind[1]
    size = dtype.itemsize * channels
    read = getattr(file, "read1", file.read)
    while True:
        whole = len(begun) // size * size
        if whole:
            found = np.frombuffer(begun[:whole], dtype).astype(np.float64)
            offset = full if dtype.kind == "u" else 0
            yield ((found - offset) / full).reshape(-1, channels)
        more = read(PIECE)
        if not more:
            return
        begun = begun[whole:] + more


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
