"""Linear layers in oneDNN; see :class:`amsincnet_sb.kernels.Kernels`."""

import torch
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.matmul import matmul_t

__all__ = ["frozen_linear", "linear"]

# Rows of a weight that are handled together: few enough for the cache, enough
# to be worth a call.
_ROWS = 512


def linear(x, weight, bias):
    """See :meth:`amsincnet_sb.kernels.Kernels.linear`.

    torch leaves float32 to the BLAS library; this is oneDNN in float32, too.
    """
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return _Linear.apply(x, weight, bias, dtype)


def frozen_linear(weight, bias, dtype):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_linear`."""
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)

    @torch.no_grad()
    def run(x):
        """``[batch, in]`` to ``[batch, out]``."""
        return linear(x.to(dtype), weight, bias)

    return run


class _Linear(torch.autograd.Function):
    """:func:`linear`; a weight that must be rounded is so part by part.

    So is its gradient: the CPU's caches hold a part, and a new block of
    memory for the whole costs as much as the matmul.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        """See torch.autograd.Function."""
        ctx.whole = weight.dtype == dtype
        ctx.rows = len(weight) if ctx.whole else _ROWS
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        parts = [
            matmul_t(x, part.to(dtype), offset.to(dtype))
            for part, offset in zip(
                weight.split(ctx.rows), bias.split(ctx.rows)
            )
        ]
        return torch.cat(parts, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        x, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            bias_grad = grad.to(weight.dtype).sum(0)
            if ctx.whole:
                weight_grad = matmul_t(grad.t(), x.t())
                return matmul_t(grad, weight.t()), weight_grad, bias_grad, None
            weight_grad = torch.empty_like(weight)
            x_grad = weight.new_zeros(x.shape)
            for part, rows, out in zip(
                grad.split(ctx.rows, 1),
                weight.split(ctx.rows),
                weight_grad.split(ctx.rows),
            ):
                out.copy_(matmul_t(part.t(), x.t()))
                x_grad += matmul_t(part, rows.to(x.dtype).t())
            return x_grad.to(x.dtype), weight_grad, bias_grad, None
