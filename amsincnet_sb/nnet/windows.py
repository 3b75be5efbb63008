"""Where the windows of a recording lie: the one rule of the whole package.

Windows start every hop samples and lie wholly within a recording; what is
behind the last whole window is not looked at. A recording shorter than a
window is repeated until it fills one.
"""

import torch

__all__ = ["count_windows", "window_samples"]


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
        whole = torch.div(spare + hop - 1, hop, rounding_mode="floor")
    else:
        whole = torch.div(spare, hop, rounding_mode="floor") + 1
    return torch.where(spare < 0, torch.ones_like(whole), whole)


def window_samples(nth, lengths, window, hop):
    """Which samples of its recording a window is made of.

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
