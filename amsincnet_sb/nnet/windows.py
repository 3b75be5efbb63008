"""Where windows lie in a recording: the one rule of the whole package.

Windows start every hop samples and lie wholly within a recording; the rest
behind the last whole window is not used. A recording shorter than a window is
repeated until it fills one.
"""

import torch

from amsincnet_sb.utils.errors import InputError

__all__ = [
    "check_lens",
    "count_windows",
    "cut_windows",
    "locate_windows",
    "valid_samples",
    "window_samples",
]


def check_lens(lens, batch, kind):
    """Raise InputError if there is not a length for each of a batch.

    One length for several would be broadcast, or leave out the others.
    ``kind`` names the module that was given them.
    """
    if lens.shape != (batch,):
        raise InputError(
            f"{kind}: lens have the shape {[*lens.shape]}, but must have "
            f"[batch], which is [{batch}]."
        )


def valid_samples(lens, time):
    """Samples of recordings that are padded to a length of ``time`` samples.

    ``lens`` are SpeechBrain's relative lengths, ``[batch]``.

    Example
    -------
    >>> valid_samples(torch.tensor([1.0, 0.5]).half(), 70000)
    tensor([70000, 35000])
    """
    # Half precision ends at 65504 samples; Apple's GPUs have no float64.
    exact = torch.float32 if lens.device.type == "mps" else torch.float64
    return (lens.to(exact) * time).round().long()


def count_windows(lengths, window, hop, released=False):
    """Number of windows of recordings of some ``lengths``, a tensor.

    All are in samples. ``released`` counts as the released code does, which
    leaves out the window that ends exactly with the recording.

    Example
    -------
    >>> count_windows(torch.tensor([3200, 3360, 3361, 100]), 3200, 160)
    tensor([1, 2, 2, 1])
    >>> count_windows(torch.tensor([3200, 3360, 3361]), 3200, 160, True)
    tensor([0, 1, 2])
    """
    spare = lengths - window
    if released:
        return torch.where(spare < 0, 1, (spare + hop - 1) // hop)
    return (spare // hop + 1).clamp(min=1)


def locate_windows(counts, begin=0, end=None):
    """The recording of each window, where the windows of several are in order.

    Of windows ``begin`` to ``end``, by default all, where recordings have
    ``counts`` windows: the index of its recording, and its number within it.

    Example
    -------
    >>> locate_windows(torch.tensor([1, 3]))
    (tensor([0, 1, 1, 1]), tensor([0, 0, 1, 2]))
    """
    ends = counts.cumsum(0)
    end = int(counts.sum()) if end is None else end
    number = torch.arange(begin, end, device=counts.device)
    recording = torch.searchsorted(ends, number, right=True)
    return recording, number - (ends - counts)[recording]


def window_samples(nth, lengths, window, hop):
    """Indices of the samples of windows within their recordings.

    ``[windows, window]``, of the ``nth`` window of a recording of each length.

    Example
    -------
    >>> window_samples(torch.tensor([0, 2]), torch.tensor([3, 9]), 4, 2)
    tensor([[0, 1, 2, 0],
            [4, 5, 6, 7]])
    """
    at = torch.arange(window, device=nth.device)
    # Only a recording shorter than a window wraps around.
    return ((nth * hop)[:, None] + at) % lengths[:, None]


def cut_windows(waves, window, hop):
    """All windows of recordings of one length.

    ``[..., time]`` to ``[..., windows, window]``, a view unless they are shorter than a window.

    Example
    -------
    >>> cut_windows(torch.arange(9), 4, 2)
    tensor([[0, 1, 2, 3],
            [2, 3, 4, 5],
            [4, 5, 6, 7]])
    >>> cut_windows(torch.arange(3), 4, 2)
    tensor([[0, 1, 2, 0]])
    """
    time = waves.shape[-1]
    if time < window:
        fill = torch.arange(window, device=waves.device) % time
        return waves[..., fill].unsqueeze(-2)
    return waves.unfold(-1, window, hop)
