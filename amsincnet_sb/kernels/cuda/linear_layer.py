"""Linear layers whose inner size tensor cores can read."""

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cuda.launch import implicit_gemm_grad
from amsincnet_sb.kernels.cuda.support import wide_product

__all__ = ["frozen_linear", "linear"]


def linear(x, weight, bias):
    """See :meth:`amsincnet_sb.kernels.Kernels.linear`.

    Under bfloat16 autocast an inner size that is not a multiple of 8 (the
    6420 behind SincNet's default convolutions) costs cuBLAS its fast kernels,
    three times the time; zeros to whole cache lines bring them back. When
    compiled, they are part of the cast that autocast needs anyway. The
    weight's gradient is not rounded to bfloat16 and back.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return F.linear(x, weight, bias)
    dtype = torch.get_autocast_dtype(kind)
    size = x.shape[-1]
    pad = -size % 64 if size % 8 else 0
    if dtype != torch.bfloat16 or x.dim() != 2:
        return F.linear(F.pad(x, (0, pad)), F.pad(weight, (0, pad)), bias)
    with torch.autocast(kind, enabled=False):
        packed = F.pad(weight.detach(), (0, pad)).to(dtype)
        return _linear(F.pad(x, (0, pad)).to(dtype), weight, packed, bias)


@torch.library.custom_op("amsincnet::linear", mutates_args=())
def _linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """``[batch, in]`` times a matrix of its type, which ``weight`` became.

    The inner sizes of both are padded; ``weight`` gets the gradient, in its own
    precision.
    """
    return F.linear(x, packed, bias.to(x.dtype))


@_linear.register_fake
def _(x, weight, packed, bias):
    return x.new_empty(len(x), len(weight))


@torch.library.custom_op("amsincnet::linear_gradient", mutates_args=())
def _weight_gradient(
    dy: torch.Tensor, x: torch.Tensor, size: int
) -> torch.Tensor:
    """Gradient of the weight, ``[out, size]`` in float32."""
    if size % 8 == 0 or not x.is_cuda:
        return wide_product(dy.t(), x[:, :size])
    # Of other sizes cuBLAS takes a third longer than this.
    dy, x = dy.contiguous(), x.contiguous()
    batch, out = dy.shape
    parts = implicit_gemm_grad(
        dy,
        x,
        batch,
        J=batch,
        SB=0,
        SM=out,
        DB=0,
        DM=x.shape[1],
        D0=0,
        KK=out,
        N=size,
    )
    return parts[0] if len(parts) == 1 else parts.sum(0)


@_weight_gradient.register_fake
def _(dy, x, size):
    return dy.new_empty(dy.shape[1], size, dtype=torch.float32)


def _context(ctx, inputs, output):
    x, weight, packed, _ = inputs
    ctx.save_for_backward(x, packed)
    ctx.size = weight.shape[1]


def _gradient(ctx, dy):
    x, packed = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        dx = dy @ packed
    if ctx.needs_input_grad[1]:
        dweight = _weight_gradient(dy, x, ctx.size)
    if ctx.needs_input_grad[3]:
        dbias = dy.sum(0, dtype=torch.float32)
    return dx, dweight, None, dbias


_linear.register_autograd(_gradient, setup_context=_context)


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
