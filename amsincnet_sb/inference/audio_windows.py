"""A recording as windows, of which memory need not hold all."""

import torch

from amsincnet_sb.dataio.audio import audio_info, is_silent, read_audio
from amsincnet_sb.nnet.windows import window_samples
from amsincnet_sb.utils.errors import InputError

__all__ = ["blocks_of", "windows_of"]

BLOCK = 2**24  # samples of a file in memory at once


def windows_of(audio, window, hop, sample_rate, most):
    """Cut a recording in windows.

    One that is shorter than a window is repeated until it fills one.

    Arguments
    ---------
    audio : str, Path or torch.Tensor
        The recording.
    window, hop : int
        Samples of a window, and from one to the next.
    sample_rate : int
        In Hz; files of another rate are resampled.
    most : int
        Windows of a batch.

    Yields
    ------
    torch.Tensor
        ``[windows, window]``.

    Raises
    ------
    InputError
        If it is unreadable, empty or not finite, or, said after its last
        window, a silent file.
    """
    # Whoever gives samples may know why they are what they are.
    is_file = not torch.is_tensor(audio)
    rest, silent, seen = torch.zeros(0), is_file, False
    for block in blocks_of(audio, sample_rate):
        silent = silent and is_silent(block)
        wave = torch.cat([rest, block]) if len(rest) else block
        rest = wave
        if len(wave) >= window:
            windows, seen = wave.unfold(0, window, hop), True
            yield from windows.split(most)
            rest = wave[len(windows) * hop :]
    if silent:
        raise InputError(
            f"{audio}: it is silent; give a recording of somebody."
        )
    if not seen:
        length = torch.tensor([len(rest)])
        first = torch.zeros_like(length)
        yield rest[window_samples(first, length, window, hop)]


def blocks_of(audio, sample_rate):
    """A recording in pieces that memory can hold.

    Arguments
    ---------
    audio, sample_rate
        See :func:`windows_of`.

    Yields
    ------
    torch.Tensor
        ``[time]``; one after the other they are the recording.

    Raises
    ------
    InputError
        If it is unreadable, empty or not finite.
    """
    if torch.is_tensor(audio):
        if audio.numel() == 0 or not audio.isfinite().all():
            raise InputError(
                "The recording is empty or holds values that are not numbers."
            )
        if audio.dim() != 1 or not audio.is_floating_point():
            raise InputError(
                f"The recording is a {audio.dtype} tensor of shape "
                f"{tuple(audio.shape)} but must be floating point, [time]."
            )
        yield audio.float().cpu()
        return
    frames, rate, *_ = audio_info(audio)
    # Whole seconds start at a whole sample of either rate, and a second
    # on both sides is more than the resampling filter looks at.
    step = rate * max(1, BLOCK // rate)
    margin = 0 if rate == sample_rate else rate
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        first = max(0, start - margin)
        last = min(stop + margin, frames)
        wave = read_audio(audio, first, last, sample_rate)
        skip = (start - first) // rate * sample_rate
        if last > stop:
            wave = wave[: skip + (stop - start) // rate * sample_rate]
        yield wave[skip:]
