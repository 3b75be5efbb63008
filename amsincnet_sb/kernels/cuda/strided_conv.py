"""Strided convolutions of time-major feature maps, as implicit GEMMs."""

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cuda.launch import (
    grad_parts,
    implicit_gemm_grad,
    plain_gemm,
)
from amsincnet_sb.kernels.cuda.support import matmul_dtype, sum_dtype

__all__ = ["conv", "frozen_conv"]


def conv(x, weight, stride=1):
    """See :meth:`amsincnet_sb.kernels.Kernels.conv`.

    The result is of the precision computed in; differentiable once.
    """
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        out, channels = weight.shape[:2]
        weight = _pad_channels(weight)
        if weight.shape[1] > channels:
            x = F.pad(x, (0, weight.shape[1] - channels))
        # Layouts are made outside of the kernels' operator, so that the
        # compiler can fuse them with neighbouring operations.
        matrix = _matrix_of(weight.detach(), dtype)
        return _conv(x.to(dtype), weight, matrix, stride)[..., :out]


def frozen_conv(weight, bias, stride, slope, residual, dtype):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_conv`.

    Bias, LeakyReLU and residual connection are added in registers.
    """
    out, channels, taps = weight.shape
    matrix = _matrix_of(_pad_channels(weight.detach()), dtype).contiguous()
    columns = matrix.shape[1]
    pad = len(matrix) // taps - channels
    bias = bias.detach().clone()
    skip = taps // 2 * (channels + pad) if residual else -1

    @torch.no_grad()
    def run(x):
        """``[batch, time, channels]`` to the same."""
        x = x.to(dtype)
        x = F.pad(x, (0, pad)) if pad else x.contiguous()
        batch, rows, cin = x.shape
        time = (rows - taps) // stride + 1
        y = x.new_empty(batch, time, columns)
        plain_gemm(
            x,
            matrix,
            y,
            bias,
            slope=slope,
            skip=skip,
            J=time,
            SB=rows * cin,
            SM=stride * cin,
        )
        return y[..., :out]

    return run


def _pad_channels(weight):
    """Zeros to multiples of 16, so that tensor cores can read the rows."""
    pad_out, pad_in = (-size % 16 for size in weight.shape[:2])
    if pad_in or pad_out:
        weight = F.pad(weight, (0, 0, 0, pad_in, 0, pad_out))
    return weight


def _matrix_of(weight, dtype):
    """``[taps * in, out]``: what rows of a feature map are multiplied by."""
    return weight.to(dtype).permute(2, 1, 0).reshape(-1, len(weight))


@torch.library.custom_op("amsincnet::strided_conv", mutates_args=())
def _conv(
    x: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor, stride: int
) -> torch.Tensor:
    """``[batch, time, in]`` times a matrix ``[taps * in, out]``.

    The matrix is made of ``weight``, ``[out, in, taps]``, which gets the
    gradient, in its own precision.
    """
    x = x.contiguous()
    batch, rows, cin = x.shape
    cout, _, taps = weight.shape
    time = (rows - taps) // stride + 1
    y = x.new_empty(batch, time, cout)
    plain_gemm(x, matrix, y, J=time, SB=rows * cin, SM=stride * cin)
    return y


@_conv.register_fake
def _(x, weight, matrix, stride):
    time = (x.shape[1] - weight.shape[2]) // stride + 1
    return x.new_empty(x.shape[0], time, weight.shape[0])


@torch.library.custom_op("amsincnet::strided_conv_backward", mutates_args=())
def _conv_backward(
    d: torch.Tensor,
    x: torch.Tensor,
    matrix: torch.Tensor,
    stride: int,
    taps: int,
    before: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the input, in whole steps, and of the forward matrix.

    The latter in parts, which the compiler adds up where it writes them.
    ``d`` is the output's gradient with zeros around it: as many ``before`` as
    the input's gradient looks back.
    """
    x, d = x.contiguous(), d.contiguous()
    batch, rows, cin = x.shape
    padded, cout = d.shape[1:]
    time = (rows - taps) // stride + 1
    grad = implicit_gemm_grad(
        x,
        d,
        batch * time,
        J=time,
        SB=rows * cin,
        SM=stride * cin,
        DB=padded * cout,
        DM=cout,
        D0=before * cout,
        KK=taps * cin,
        N=cout,
    )
    blocks = padded - before
    dx = x.new_empty(batch, blocks * stride, cin)
    plain_gemm(d, matrix, dx, J=blocks, SB=padded * cout, SM=cout)
    return dx, grad


@_conv_backward.register_fake
def _(d, x, matrix, stride, taps, before):
    batch, rows, cin = x.shape
    blocks = d.shape[1] - before
    time = (rows - taps) // stride + 1
    size, n = taps * cin, d.shape[2]
    _, parts, _ = grad_parts(batch * time, size, n, x.element_size())
    return (
        x.new_empty(batch, blocks * stride, cin),
        x.new_empty(parts, size, n, dtype=sum_dtype(x)),
    )


def _context(ctx, inputs, output):
    x, weight, _, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx, dy):
    x, weight = ctx.saved_tensors
    stride, (cout, cin, taps) = ctx.stride, weight.shape
    rows, time = x.shape[1], dy.shape[1]
    # ``stride`` positions of the input at a time: position ``r`` of block
    # ``u`` is reached by tap ``r + stride * j`` of output ``u - j``.
    reach = -(-taps // stride)
    blocks = -(-rows // stride)
    d = F.pad(dy, (0, 0, reach - 1, blocks - time))
    matrix = F.pad(weight.to(x.dtype), (0, reach * stride - taps))
    matrix = matrix.view(cout, cin, reach, stride).flip(2)
    matrix = matrix.permute(2, 0, 3, 1).reshape(reach * cout, stride * cin)
    dx, grad = _conv_backward(d, x, matrix, stride, taps, reach - 1)
    grad = grad.sum(0).view(taps, cin, cout)
    # Written as the optimizer reads it.
    dweight = grad.permute(2, 1, 0).to(weight.dtype).contiguous()
    return dx[:, :rows], dweight, None, None


_conv.register_autograd(_gradient, setup_context=_context)
