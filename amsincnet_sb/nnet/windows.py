"""Where windows lie in a recording: the one rule of the whole package.

Windows start every hop samples and lie wholly within a recording; the rest
behind the last whole window is not used. A recording shorter than a window is
repeated until it fills one.
"""

import torch

__all__ = ["count_windows", "cut_windows", "locate_windows", "window_samples"]


def count_windows(lengths, window, hop, released=False):
    """Number of windows of each recording.

    Arguments
    ---------
    lengths : torch.Tensor
        ``[recordings]``, samples.
    window, hop : int
        In samples.
    released : bool
        Count as the released code does, which leaves out the window that
        ends exactly with the recording.

    Returns
    -------
    torch.Tensor
        ``[recordings]``. A recording shorter than a window has one.

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

    Arguments
    ---------
    counts : torch.Tensor
        ``[recordings]``, windows of each, from :func:`count_windows`.
    begin, end : int
        Range of the windows wanted; by default all.

    Returns
    -------
    recording : torch.Tensor
        ``[windows]``, index of the recording of each.
    nth : torch.Tensor
        ``[windows]``, number of each within its recording, from 0.

    Example
    -------
    >>> locate_windows(torch.tensor([1, 3]))
    (tensor([0, 1, 1, 1]), tensor([0, 0, 1, 2]))
    """
    ends = counts.cumsum(0)
    end = int(ends[-1]) if end is None else end
    number = torch.arange(begin, end, device=counts.device)
    recording = torch.searchsorted(ends, number, right=True)
    return recording, number - (ends - counts)[recording]


def window_samples(nth, lengths, window, hop):
    """Indices of the samples of windows, within their recordings.

    Arguments
    ---------
    nth : torch.Tensor
        ``[windows]``, number of each within its recording, from 0.
    lengths : torch.Tensor
        ``[windows]``, samples of its recording.
    window, hop : int
        In samples.

    Returns
    -------
    torch.Tensor
        ``[windows, window]``.

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

    Arguments
    ---------
    waves : torch.Tensor
        ``[..., time]``.
    window, hop : int
        In samples.

    Returns
    -------
    torch.Tensor
        ``[..., windows, window]``, a view unless they are shorter than one.

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
