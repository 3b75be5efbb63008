"""Linear layers whose inner size tensor cores can read."""

import torch
import torch.nn.functional as F

__all__ = ["frozen_linear", "linear"]


def linear(x, weight, bias):
    """See :meth:`amsincnet_sb.kernels.Kernels.linear`.

    Under bfloat16 autocast an inner size that is not a multiple of 8 (the
    6420 behind SincNet's default convolutions) costs cuBLAS its fast kernels,
    three times the time; zeros to the next multiple bring them back. When
    compiled, they are part of the cast that autocast needs anyway.
    """
    pad = -x.shape[-1] % 8
    if pad and torch.is_autocast_enabled(x.device.type):
        x, weight = F.pad(x, (0, pad)), F.pad(weight, (0, pad))
    return F.linear(x, weight, bias)


def frozen_linear(weight, bias, dtype):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_linear`."""
    pad = -weight.shape[1] % 8
    weight = F.pad(weight.detach(), (0, pad)).to(dtype)
    bias = bias.detach().to(dtype)

    @torch.no_grad()
    def run(x):
        """``[batch, in]`` to ``[batch, out]``."""
        x = x.to(dtype)
        return F.linear(F.pad(x, (0, pad)) if pad else x, weight, bias)

    return run
