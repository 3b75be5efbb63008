"""Reading audio files, and saying what is wrong with bad ones.

Whatever `libsndfile` reads is accepted, recognised by content and not by
name, so that TIMIT's SPHERE files called ``.WAV`` need no conversion.
SpeechBrain's ``read_audio`` neither averages channels nor notices that a file
is cut short.
"""

import os
import re
from contextlib import contextmanager
from math import gcd, isfinite
from numbers import Integral
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from amsincnet_sb.dataio.compressed import (
    counted,
    ends_within_page,
    has_further_streams,
)
from amsincnet_sb.dataio.mp3 import whole_mp3
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "audio_info",
    "channels_cancel",
    "check_channel",
    "check_peak",
    "check_resampling",
    "is_silent",
    "read_audio",
    "read_chunk",
    "resample",
    "silence",
    "silence_of",
]

MAX_CHANNELS = 64
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz
MAX_PEAK = 4.0  # float files mixed a little too loud stay below it
MAX_RESAMPLING_TAPS = 20_000_000  # 80 MB; 44.1 kHz to 16 kHz needs 0.1 M
BLOCK = 2**20  # samples decoded at once: all that a header can make us hold
# Samples of an MP3 to read before those wanted: a frame's data may begin many
# frames earlier, and after a jump it sounds wrong or not at all.
MP3_LEAD = 16 * 1152
SILENT = 2 / 2**15  # from peak to peak: the dither of 16 bits
# Sizes from here on are what pipes write for "unknown".
STREAMED, STREAMED_64 = 0x7F000000, 2**62
ENDLESS = 2**63 - 1  # libsndfile's samples of those

# What libsndfile logs of sizes in bytes that the file does not have.
_BYTES = re.compile(
    r"^ *(?:data|SSND|BODY|riff|Data Size|Data length) *:? (\d+) "
    r"\(?should be (\d+)",
    re.MULTILINE,
)
# Of others it logs the size of the data alone: the line, and the fewest bytes
# that come before.
_BLOCKS = {
    "VOC": (r"^ (?:Extended II|Sound Data) : (\d+)", 30),
    "W64": (r"^data : (\d+)", 80),
    "RF64": (r"^  Data size : (\d+)", 80),
}
W64_DATA = re.compile(
    rb"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a(.{8})", re.DOTALL
)
# And of these the samples of a channel, as the last such line.
_COUNTED = ("AIFF", "AVR", "MAT4", "MAT5", "MPC2K", "RF64")
_FRAMES = re.compile(r"^ *(?:Frames|.*Cols) +: (\d{1,18})$", re.MULTILINE)


class AudioInfo(NamedTuple):
    """What the header of an audio file says."""

    samples: int  # of one channel
    sample_rate: int  # Hz
    channels: int
    subtype: str  # coding of the samples


def audio_info(path):
    """Read the header of an audio file, as AudioInfo.

    Arguments
    ---------
    path : str or os.PathLike
        Any format `libsndfile` reads.

    Raises
    ------
    InputError
        The file is missing, a folder, empty, not audio, shorter than its
        header says, or its header cannot be true.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.full(800, 0.5), 8000)
    >>> audio_info(path)
    AudioInfo(samples=800, sample_rate=8000, channels=1, subtype='PCM_16')
    """
    with _opened(path) as (sound, samples):
        return AudioInfo(
            samples, sound.samplerate, sound.channels, sound.subtype
        )


def read_audio(
    path, start=0, stop=None, sample_rate=16000, channel=None, clip=True
):
    """Read a mono waveform.

    Channels are averaged unless one is chosen, other rates are resampled, and
    floating-point files that exceed full scale are clipped to it.

    Arguments
    ---------
    path : str or os.PathLike
        Any format `libsndfile` reads.
    start, stop : int, optional
        First sample and the one after the last, counted at the file's own
        rate. The default is the whole file.
    sample_rate : int
        Rate of the returned waveform, in Hz.
    channel : int, optional
        The only one to read, counted from 1.
    clip : bool
        To full scale, as training has it, which may keep 16 bits. A model
        that is asked removes a gain by itself.

    Returns
    -------
    torch.Tensor
        ``[T]`` float32, in [-1, 1] if clipped.

    Raises
    ------
    InputError
        As :func:`audio_info`; and when the limits or the channel lie outside
        the file, its data are damaged, or it holds NaN, infinity or unscaled
        integers.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, np.full((800, 2), [0.5, 0.0]), 8000)
    >>> wave = read_audio(path, start=400)
    >>> wave.shape, round(float(wave[400]), 2)
    (torch.Size([800]), 0.25)
    """
    with _opened(path) as (sound, samples):
        rate = sound.samplerate
        if stop is None:
            stop = samples
        _check_limits(path, start, stop, samples)
        check_channel(path, channel, sound.channels)
        wave, peak = _part(path, sound, start, stop, channel)
    if rate != sample_rate:
        wave = resample(path, wave, rate, sample_rate)
        peak = MAX_PEAK  # the low-pass filter may overshoot
    return wave.clamp_(-1.0, 1.0) if clip and peak > 1.0 else wave


def read_chunk(path, start, stop, sample_rate):
    """Read a part of a file whose rate is known, for streaming.

    As :func:`read_audio`, but not clipped, and a file that has another rate
    than `sample_rate` (Hz) raises InputError.
    """
    with _opened(path) as (sound, samples):
        if sound.samplerate != sample_rate:
            raise InputError(
                f"{path}: it has {sound.samplerate} samples per second where "
                f"the manifest says {sample_rate}; prepare the corpus again."
            )
        _check_limits(path, start, stop, samples)
        return _part(path, sound, start, stop)[0]


def resample(path, wave, rate, sample_rate):
    """Change the rate of a waveform, ``[T]`` float32, with torchaudio.

    Raises InputError, which names `path`, if the two rates have so little in
    common that it would take ages.
    """
    # Imported on demand: it takes seconds, and most corpora never need it.
    from torchaudio.functional import resample as resampled

    check_resampling(path, rate, sample_rate)
    return resampled(wave, rate, sample_rate)


def check_resampling(path, rate, sample_rate):
    """Raise InputError, as :func:`resample`, for rates with little in common."""
    # torchaudio's kernel grows with both rates over their common divisor.
    if rate * sample_rate > MAX_RESAMPLING_TAPS * gcd(rate, sample_rate) ** 2:
        raise InputError(
            f"{path}: {rate} samples per second cannot be resampled to "
            f"{sample_rate} at a reasonable cost; convert it first."
        )


def check_channel(path, channel, channels):
    """Raise InputError for a channel, counted from 1, that there is not."""
    there = isinstance(channel, Integral) and 1 <= channel <= channels
    if channel is not None and not there:
        raise InputError(
            f"{path}: it has no channel {channel!r}; they are counted from 1 to "
            f"{channels}."
        )


def check_peak(path, peak):
    """Raise InputError for samples that are NaN, infinite or far too large."""
    if not isfinite(peak):
        raise InputError(
            f"{path}: it contains NaN or infinite samples; export it again."
        )
    if peak > MAX_PEAK:
        raise InputError(
            f"{path}: its samples reach {peak:g} where full scale is 1; "
            "divide them by full scale and save it again."
        )


def is_silent(wave):
    """Whether a waveform in [-1, 1] carries no signal at all.

    It is empty, constant, or varies by no more than the dither of 16-bit
    audio, one step up or down.
    """
    if not wave.numel():
        return True
    # numpy, because torch would start a team of threads in each caller's.
    return bool(np.ptp(wave.detach().cpu().numpy()) <= SILENT)


def silence_of(path, channel=None):
    """The InputError to raise for a file that :func:`is_silent`."""
    return silence(path, channel is None and channels_cancel(path))


def channels_cancel(path, start=0, stop=None):
    """Whether a file, or a part, is silent for its channels cancel each other.

    As where one is wired the wrong way round.
    """
    info = audio_info(path)
    if info.channels == 1:
        return False
    last = min(info.samples if stop is None else stop, start + BLOCK)
    return not is_silent(read_audio(path, start, last, info.sample_rate, 1))


def silence(path, cancelled):
    """The InputError about silence, whose channels may cancel each other."""
    if not cancelled:
        return InputError(f"{path}: it is silent; give a recording of speech.")
    return InputError(
        f"{path}: its channels cancel each other; take one of them, as with "
        "--channel 1."
    )


@contextmanager
def _opened(path):
    """A SoundFile whose header has been found believable, and its samples."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: {_no_file(path)}")
    if os.fspath(path).lower().endswith(".raw"):
        raise InputError(
            f"{path}: raw samples have no header; convert them to WAV."
        )
    try:
        # As bytes: a name that is not valid Unicode can be read all the same.
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            promised = _check_header(path, sound)
            if sound.subtype.startswith("MPEG_LAYER"):
                with whole_mp3(path, sound) as opened:
                    yield opened
            elif sound.frames == ENDLESS:
                with counted(path) as opened:
                    yield opened
            else:
                yield sound, _samples(path, sound, promised)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: {_diagnosis(path, error)}") from error


def _no_file(path):
    """What to tell the user about a path that is none of a file."""
    if os.path.isdir(path):
        return "it is a folder; give an audio file."
    if os.path.exists(path):
        return (
            "it is a pipe or a device, not a file; write its audio to a file, "
            "or give it as - on standard input."
        )
    try:
        os.stat(path)
    except PermissionError as denied:  # of a folder that it lies in
        return f"it cannot be read ({denied.strerror}); check its permissions."
    except (OSError, ValueError):
        pass
    return "there is no such file; check the path."


def _check_header(path, sound):
    """Raise InputError for headers that no real recording has.

    Returns the data that the header promises, see _sizes.
    """
    if not 1 <= sound.channels <= MAX_CHANNELS:
        raise InputError(
            f"{path}: its header says {sound.channels} channels, and at most "
            f"{MAX_CHANNELS} are read; check what wrote it."
        )
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise InputError(
            f"{path}: its header says {sound.samplerate} samples per second, "
            f"not {MIN_RATE} to {MAX_RATE}; check what wrote it."
        )
    # libsndfile quietly believes the file's size where the header says more.
    promised, held = _sizes(path, sound)
    if promised > held:
        raise InputError(
            f"{path}: it is cut short, with {min(held / promised, 0.99):.0%} "
            "of the data that its header promises; copy it again."
        )
    if sound.frames < 1:
        raise InputError(f"{path}: it holds no samples; copy it again.")
    if sound.format == "OGG" and ends_within_page(path):
        raise InputError(
            f"{path}: it is cut short, within a page of Ogg; copy it again."
        )
    if sound.format == "OGG" and has_further_streams(path):
        raise InputError(
            f"{path}: it is several streams of Ogg in a row, and the first "
            "alone would be read; convert it to WAV."
        )
    return promised


def _samples(path, sound, promised):
    """How many samples of a channel there are; libsndfile counts what follows."""
    if sound.format != "NIST":
        promised = 0
    plain = sound.subtype.startswith(("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW"))
    if sound.format == "W64" and plain:
        with open(path, "rb") as file:
            size = W64_DATA.search(file.read(2**16))
        width = re.search(r"Block Align *: ([1-9]\d*)", sound.extra_info)
        if size and width:  # with 24 bytes of a header of its own
            size = int.from_bytes(size[1], "little") - 24
            promised = size // int(width[1])
    return min(promised, sound.frames) if promised > 0 else sound.frames


def _sizes(path, sound):
    """The data that the header promises and those there are, or (0, 0)."""
    if sound.format == "NIST":
        found = re.search(rb"sample_count -i (\d{1,18})\s", _sphere(path))
        return int(found[1]) if found else 0, sound.frames
    log, wide = sound.extra_info, sound.format in ("W64", "RF64")
    found = _BYTES.search(log)
    if found:
        promised, held = map(int, found.groups())
        if promised > held:
            endless = promised >= (STREAMED_64 if wide else STREAMED)
            return (0, 0) if endless else (promised, held)
    if sound.format in _BLOCKS:
        line, header = _BLOCKS[sound.format]
        found = re.search(line, log, re.MULTILINE)
        promised = int(found[1]) if found else 0
        held = int(re.search(r"^Length : (\d+)", log, re.MULTILINE)[1]) - header
        if sound.format == "W64":  # of which whole words of 8 are logged
            held += -held % 8
        if held < promised < STREAMED_64:
            return promised, max(0, held)
    found = _FRAMES.findall(log) if sound.format in _COUNTED else []
    return (int(found[-1]), sound.frames) if found else (0, 0)


def _check_limits(path, start, stop, samples):
    """Raise InputError for a part that is not there."""
    if not 0 <= start < stop <= samples:
        raise InputError(
            f"{path}: samples {start} to {stop} were asked for, but the "
            f"file has {samples}; correct the limits."
        )


def _part(path, sound, start, stop, channel=None):
    """Samples start to stop as a tensor, found to be usable; their peak."""
    wave = _mono(path, sound, start, stop, channel)
    peak = max(float(wave.max()), -float(wave.min()))
    check_peak(path, peak)
    return torch.from_numpy(wave), peak


def _mono(path, sound, start, stop, channel):
    """Samples start to stop as float32 ``[T]``, decoded block by block."""
    if start:
        sound.seek(start)
    blocks, missing = [], stop - start
    size = BLOCK // sound.channels
    while missing:
        block = _block(sound, stop - missing, min(size, missing))
        if not len(block):
            raise InputError(
                f"{path}: it is cut short, with {missing} samples fewer than "
                "its header promises; copy it again."
            )
        missing -= len(block)
        mixed = sound.channels > 1 and channel is None
        blocks.append(block.mean(1) if mixed else block[:, (channel or 1) - 1])
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _block(sound, at, size):
    """The next samples, which begin `at`, as float32 ``[size, channels]``."""
    before = 0  # soundfile jumps to where it is, after each block, too
    if sound.subtype.startswith("MPEG_LAYER"):
        before = min(at, MP3_LEAD)
        sound.seek(at - before)
    return sound.read(before + size, "float32", always_2d=True)[before:]


def _diagnosis(path, error):
    """What to tell the user about a file that libsndfile refuses."""
    try:
        empty, head = not os.path.getsize(path), _sphere(path)
    except OSError as denied:  # or gone meanwhile
        return f"it cannot be read ({denied.strerror}); check its permissions."
    if empty:
        return "the file is empty; copy it again."
    if b"shorten" in head:
        return (
            "it is a SPHERE file compressed with shorten; decompress it with "
            "sph2pipe or w_decode first."
        )
    detail = getattr(error, "error_string", str(error)).strip(" .")
    if detail.startswith("File does not exist"):  # libsndfile of a decoder
        detail = "damaged, or too short"
    return f"it cannot be read as audio ({detail}); check the file."


def _sphere(path):
    """The SPHERE header of a file; empty when it has none."""
    with open(path, "rb") as file:
        head = file.read(1024)
    return head.split(b"end_head")[0] if head.startswith(b"NIST_1A") else b""
