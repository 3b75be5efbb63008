"""Linear layers, in oneDNN and where rounded in parts."""

import torch
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.products import product

__all__ = ["frozen_linear", "linear"]

# Rows of a weight that are handled together: few enough for the cache, enough
# to be worth a call.
_ROWS = 512


def linear(x, weight, bias):
    """:func:`torch.nn.functional.linear`, in oneDNN also in float32.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, in]``.
    weight : torch.Tensor
        ``[out, in]``.
    bias : torch.Tensor
        ``[out]``.

    Returns
    -------
    torch.Tensor
        ``[batch, out]``.

    Example
    -------
    >>> x, weight, bias = torch.randn(4, 8), torch.randn(2, 8), torch.randn(2)
    >>> torch.allclose(
    ...     linear(x, weight, bias), x @ weight.t() + bias, atol=1e-5
    ... )
    True
    """
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return _Linear.apply(x, weight, bias, dtype)


class _Linear(torch.autograd.Function):
    """See :func:`linear`.

    A weight that must be rounded is so part by part, and its gradient made
    so: the processor's caches hold a part, and a new block of memory for the
    whole costs as much as the product.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        """See torch.autograd.Function."""
        ctx.rows = len(weight) if weight.dtype == dtype else _ROWS
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        parts = [
            product(x, part.to(dtype), offset.to(dtype))
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
            if ctx.rows == len(weight):
                weight_grad = product(grad.t(), x.t())
                return product(grad, weight.t()), weight_grad, bias_grad, None
            weight_grad = torch.empty_like(weight)
            x_grad = weight.new_zeros(x.shape)
            for part, rows, out in zip(
                grad.split(ctx.rows, 1),
                weight.split(ctx.rows),
                weight_grad.split(ctx.rows),
            ):
                out.copy_(product(part.t(), x.t()))
                x_grad += product(part, rows.to(x.dtype).t())
            return x_grad.to(x.dtype), weight_grad, bias_grad, None


def frozen_linear(weight, bias, dtype):
    """:func:`linear` with fixed parameters.

    Arguments
    ---------
    weight, bias, dtype
        See :func:`amsincnet_sb.kernels.cuda.frozen.frozen_linear`.

    Returns
    -------
    callable
        ``[batch, in]`` to ``[batch, out]``, of that type.
    """
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)

    @torch.no_grad()
    def run(x):
        """Vectors to vectors."""
        return linear(x.to(dtype), weight, bias)

    return run
