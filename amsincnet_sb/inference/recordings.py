"""What stands for a recording: files, file-like objects and waveforms."""

import contextlib
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import BinaryIO, TypeAlias

import numpy as np
import torch

from amsincnet_sb.dataio.audio import (
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    check_channel,
    resample,
)
from amsincnet_sb.dataio.listings import SUFFIXES
from amsincnet_sb.dataio.lists import corpus_files
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "FileLike",
    "Recording",
    "as_source",
    "from_command_line",
    "several",
]

#: What stands for one recording; see :func:`as_source`.
_Samples: TypeAlias = torch.Tensor | np.ndarray
Recording: TypeAlias = (
    str | os.PathLike[str] | BinaryIO | _Samples | tuple[_Samples, float]
)

BLOCK = 2**20  # bytes copied at a time
STANDARD_INPUT = "-", "/dev/stdin"
HANDLES = "/proc/self/fd"  # Linux has open files there, with names or not


class FileLike(os.PathLike):
    """The content of a binary file-like object, as a file with its name.

    It is read from its start if it can be, to its end, into a temporary file,
    which lives as long as this object. On Linux it has no name, so that
    nothing is left of it however the process ends.

    Example
    -------
    >>> import io
    >>> copied = FileLike(io.BytesIO(b"abc"), "upload")
    >>> str(copied), open(copied, "rb").read()
    ('upload', b'abc')
    """

    def __init__(self, file, name=None):
        own = getattr(file, "name", None)
        self.name = name or (own if isinstance(own, str) else "the recording")
        try:
            self._copy(file)
        except OSError as error:
            raise InputError(
                f"{self.name}: it cannot be read, or copied to the folder of "
                f"temporary files ({error.strerror or error}); TMPDIR names "
                "another one."
            ) from error

    def _copy(self, file):
        handle, self.path, nameless = _temporary()
        if nameless:
            weakref.finalize(self, os.close, handle)
        else:
            weakref.finalize(self, _remove, self.path)
        with contextlib.suppress(AttributeError, OSError):  # a pipe
            file.seek(0)
        with open(handle, "wb", closefd=not nameless) as copy:
            while len(block := file.read(BLOCK)):
                if not isinstance(block, bytes | bytearray):
                    raise InputError(
                        f"{self.name}: it is a {type(file).__name__} that "
                        f"gives {type(block).__name__}; give a file that is "
                        "open for reading bytes."
                    )
                copy.write(block)

    def __fspath__(self):
        return self.path

    def __str__(self):
        return self.name


def several(audio):
    """The recordings meant, any iterable, or None where it is just one.

    Example
    -------
    >>> several("a.wav"), several(["a.wav"]), several((torch.ones(3), 8000))
    (None, ['a.wav'], None)
    """
    one = (str, bytes, os.PathLike, torch.Tensor, np.ndarray, Mapping, Set)
    if isinstance(audio, one) or hasattr(audio, "read") or _has_rate(audio):
        return None
    return audio if isinstance(audio, Iterable) else None


def as_source(recording, sample_rate, channel=None):
    """A recording as a path, or as a waveform ``[time]`` at a rate.

    Arguments
    ---------
    recording : str, os.PathLike, file-like object, array or pair
        A file; a binary file-like object; a tensor or numpy array of samples,
        ``[time]``, ``[channels, time]`` or ``[time, channels]`` (the shorter
        axis has the channels, which are averaged; whole numbers are divided
        by full scale); or such samples and their rate in Hz, as soundfile,
        torchaudio and librosa return them.
    sample_rate : int
        In Hz, of the waveform returned, and of samples that come without one.
    channel : int, optional
        Of samples with several, counted from 1, in place of their mean.

    Raises
    ------
    InputError
        It is anything else, or holds NaN or infinite samples or none at all.

    Example
    -------
    >>> stereo = np.array([[0, 16384], [0, 16384], [0, 0]], dtype="int16")
    >>> as_source(stereo, 16000)
    tensor([0.2500, 0.2500, 0.0000])
    """
    if isinstance(recording, str | os.PathLike):
        return recording
    if hasattr(recording, "read"):
        return FileLike(recording)
    rate = sample_rate
    if _has_rate(recording):
        recording, rate = recording
        if not MIN_RATE <= rate <= MAX_RATE or rate != int(rate):
            raise InputError(
                f"The recording's sample rate is {rate} but must be a whole "
                f"number of Hz, from {MIN_RATE} to {MAX_RATE}."
            )
    if not isinstance(recording, np.ndarray | torch.Tensor):
        raise InputError(
            f"A {type(recording).__name__} is no recording; give a path, a "
            "file-like object, or samples as a tensor or numpy array, alone "
            "or with their sample rate."
        )
    wave = _mono(recording, channel)
    if not wave.numel() or not wave.isfinite().all():
        raise InputError(
            "The recording is empty or contains NaN or infinite samples."
        )
    if rate == sample_rate:
        return wave
    return resample("The recording", wave, int(rate), sample_rate)


def from_command_line(names):
    """Yield (name, recording) of files, folders and ``-``, standard input.

    A folder stands for the audio files in it and below. Where there is none,
    or it cannot be listed, the InputError stands for the recording.

    Example
    -------
    >>> list(from_command_line(["a.wav"]))
    [('a.wav', 'a.wav')]
    """
    for name in names:
        try:
            if name in STANDARD_INPUT:
                if sys.stdin is None:
                    raise InputError(f"{name}: standard input is closed.")
                yield name, FileLike(sys.stdin.buffer, name)
            elif os.path.isdir(name):
                found = [path for path, *_ in corpus_files(name, SUFFIXES)]
                if not found:
                    raise InputError(f"{name}: the folder has no audio files.")
                for path in found:
                    yield (os.path.join(name, path),) * 2
            else:
                yield name, name
        except InputError as error:
            yield name, error


def _has_rate(audio):
    """Whether it is a pair of samples and their rate."""
    return (
        isinstance(audio, tuple | list)
        and len(audio) == 2
        and isinstance(audio[0], np.ndarray | torch.Tensor)
        and isinstance(audio[1], Real)
    )


def _mono(samples, channel=None):
    """Samples of any type and layout as float32 ``[time]`` in -1 to 1."""
    if isinstance(samples, torch.Tensor):
        try:
            samples = samples.detach().cpu()
            if samples.dtype == torch.bfloat16:  # numpy has none
                samples = samples.float()
            samples = samples.numpy()
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"The recording holds no samples: {error}"
            ) from error
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    short = sorted(samples.shape)[:-1]
    if (
        not (kind == "f" or kind in "iu" and bits <= 32)
        or samples.ndim not in (1, 2)
        or not all(size <= MAX_CHANNELS for size in short)
    ):
        raise InputError(
            f"The recording is of {samples.dtype} with shape {samples.shape}, "
            "but must be floating point or of 8, 16 or 32 bits, [time], "
            f"[channels, time] or [time, channels], with at most "
            f"{MAX_CHANNELS} channels; several recordings go into a list."
        )
    if kind in "iu":
        full = 2.0 ** (bits - 1)
        samples = samples / full - (kind == "u")
    check_channel("The recording", channel, short[0] if short else 1)
    if samples.ndim == 2 and samples.size:
        axis = int(samples.shape[0] > samples.shape[1])
        mixed = channel is None
        samples = (
            samples.mean(axis) if mixed else samples.take(channel - 1, axis)
        )
    with np.errstate(over="ignore"):  # it becomes infinite
        return torch.from_numpy(np.array(samples, np.float32))


def _temporary():
    """A new file: its handle, a path to it, and whether it has no name."""
    handle, path = tempfile.mkstemp(prefix="recording.")
    link = f"{HANDLES}/{handle}"
    if not os.path.exists(link):
        return handle, path, False
    os.unlink(path)
    try:
        open(link, "rb").close()
    except OSError:  # a file system that knows files by their names alone
        os.close(handle)
        return *tempfile.mkstemp(prefix="recording."), False
    return handle, link, True


def _remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)
