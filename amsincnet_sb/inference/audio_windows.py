"""From recordings to windows, and means over them."""

from itertools import count

import torch

from amsincnet_sb.dataio.audio import (
    SILENT,
    audio_info,
    is_silent,
    read_audio,
    silence_of,
)
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.inference.recordings import as_source
from amsincnet_sb.nnet.windows import cut_windows
from amsincnet_sb.utils.errors import InputError

__all__ = ["blocks_of", "window_means"]

BLOCK = 2**24  # samples of a file in memory at once


def window_means(
    recordings,
    measure,
    window,
    hop,
    sample_rate,
    batch_size,
    errors=False,
    channel=None,
):
    """Average anything over the windows of each recording.

    ``measure`` gets a list of tensors ``[windows, window]``, each a view of a
    recording, and the number of each window's recording ``[windows]``, at most
    ``batch_size`` windows at a time, while a thread reads the next ones; it
    returns tensors ``[windows, ...]``. Yields the list
    of their means, for each recording as soon as it is complete. A recording
    is what :func:`amsincnet_sb.inference.recordings.as_source` takes, or the
    InputError of one that could not be read; a useless one raises InputError,
    or yields it with ``errors``. An hour of a file takes no more memory than
    some minutes. Of several channels, ``channel`` is the one to take, counted
    from 1; their mean if not given.

    Example
    -------
    >>> waves = [torch.ones(9), torch.zeros(5)]
    >>> def measure(windows, recording):
    ...     return [torch.cat(windows).mean(1)]
    >>> list(window_means(waves, measure, 4, 2, 8000, batch_size=3))
    [[tensor(1.)], [tensor(0.)]]
    """

    def pieces():
        """Windows of all recordings, piece by piece."""
        for number, audio in enumerate(recordings):
            end = None
            try:
                if isinstance(audio, InputError):
                    raise audio
                for windows in _windows_of(
                    audio, window, hop, sample_rate, batch_size, channel
                ):
                    yield number, windows
            except InputError as error:
                if not errors:
                    raise
                end = error
            yield number, end

    batch, size, sums = [], 0, {}
    made = pieces()
    for item in prefetch(lambda _: next(made, None), count(), threads=1):
        if item is None:
            break
        number, piece = item
        length = len(piece) if torch.is_tensor(piece) else 0
        if size + length > batch_size:
            yield from _completed(batch, sums, measure)
            batch, size = [], 0
        batch.append(item)
        size += length
    yield from _completed(batch, sums, measure)


def _completed(batch, sums, measure):
    """Measure a batch of pieces; yield the means that are complete with it.

    ``sums`` maps the number of a recording to its windows and sums so far.
    """
    pieces = [each for each in batch if torch.is_tensor(each[1])]
    if pieces:
        numbers, windows = zip(*pieces)
        lengths = [len(each) for each in windows]
        recording = torch.tensor(numbers).repeat_interleave(
            torch.tensor(lengths)
        )
        measured = measure(windows, recording)
        parts = zip(*(each.split(lengths) for each in measured))
    for number, piece in batch:
        if torch.is_tensor(piece):
            new = [len(piece), *(part.sum(0) for part in next(parts))]
            old = sums.get(number, [0] * len(new))
            sums[number] = [a + b for a, b in zip(old, new)]
        else:
            count, *totals = sums.pop(number, [0])
            yield piece or [total / count for total in totals]


def _windows_of(audio, window, hop, sample_rate, batch_size, channel=None):
    """Windows of a recording, ``[windows, window]``, batch by batch.

    Without those of digital silence, which are nobody's and alike in all
    recordings. That a file has no others is said after its last one.
    """
    audio = as_source(audio, sample_rate, channel)
    rest, heard, first = torch.zeros(0), False, None
    for block in blocks_of(audio, sample_rate, channel):
        rest = torch.cat([rest, block]) if len(rest) else block
        if len(rest) >= window:
            windows = cut_windows(rest, window, hop)
            for part in windows.split(batch_size):
                for stretch in _audible(part):
                    heard = True
                    yield stretch
            if first is None and not heard:
                first = windows[:batch_size]
            rest = rest[len(windows) * hop :]
    if heard:
        return
    # A waveform of zeros is taken as it is.
    silent = first is not None or is_silent(rest)
    if silent and not torch.is_tensor(audio):
        raise silence_of(audio, channel)
    yield cut_windows(rest, window, hop) if first is None else first


def _audible(windows):
    """Stretches of windows that are not silent, as views."""
    loud = windows.amax(1) - windows.amin(1) > SILENT
    if loud.all():
        return [windows]
    runs = torch.tensor_split(windows, loud.diff().nonzero().flatten() + 1)
    first = int(not loud[0])
    return runs[first::2]


def blocks_of(audio, sample_rate, channel=None, block=None):
    """A recording in pieces ``[time]`` that memory can hold.

    ``block`` is about how many samples of a file they have.
    """
    if torch.is_tensor(audio):
        yield audio
        return
    frames, rate, *_ = audio_info(audio)
    # Whole seconds start at a whole sample of either rate, and a second
    # on both sides is more than the resampling filter looks at.
    step = rate * max(1, (block or BLOCK) // rate)
    margin = 0 if rate == sample_rate else rate
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        first = max(0, start - margin)
        last = min(stop + margin, frames)
        # As an array would be: what exceeds full scale is kept.
        wave = read_audio(audio, first, last, sample_rate, channel, clip=False)
        skip = (start - first) // rate * sample_rate
        if last > stop:
            wave = wave[: skip + (stop - start) // rate * sample_rate]
        yield wave[skip:]
