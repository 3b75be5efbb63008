"""Linear layers whose inner size tensor cores can read."""

import torch
import torch.nn.functional as F

__all__ = ["linear"]


def linear(x, weight, bias):
    """``F.linear`` with inner sizes that tensor cores can read.

    Under bfloat16 autocast an inner size that is not a multiple of 8 (the
    6420 behind SincNet's default convolutions) costs cuBLAS its fast kernels,
    three times the time; zeros to the next multiple bring them back. When
    compiled, they are part of the cast that autocast needs anyway.

    Arguments
    ---------
    x : torch.Tensor
        ``[..., in]``.
    weight : torch.Tensor
        ``[out, in]``.
    bias : torch.Tensor
        ``[out]``.

    Returns
    -------
    torch.Tensor
        ``[..., out]``.

    Example
    -------
    >>> x, weight, bias = torch.randn(2, 5), torch.randn(3, 5), torch.zeros(3)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     linear(x, weight, bias).shape
    torch.Size([2, 3])
    """
    pad = -x.shape[-1] % 8
    if pad and torch.is_autocast_enabled(x.device.type):
        x, weight = F.pad(x, (0, pad)), F.pad(weight, (0, pad))
    return F.linear(x, weight, bias)
