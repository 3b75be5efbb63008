"""The sinc layer: windows to a map, as a block-Toeplitz product."""

import math

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cuda.launch import kernels, rearrange, window_gemm
from amsincnet_sb.kernels.cuda.norm import (
    affine_gradient,
    affine_of,
    norm_backward,
    norm_forward,
)
from amsincnet_sb.kernels.cuda.precision import arithmetic, sum_dtype

__all__ = ["sinc_layer"]


def sinc_layer(x, filters, gain, shift, keep, pool, eps, slope, floor, dtype):
    """Filtered, pooled by magnitude, normalised, rectified.

    Arguments
    ---------
    x : torch.Tensor
        Windows, ``[batch, time]``.
    filters : torch.Tensor
        ``[channels, taps]``.
    gain, shift : torch.Tensor
        Of the normalisation, ``[channels, pooled time]``.
    keep : torch.Tensor or None
        ``[batch, channels]``; where it is 0, so is the map.
    pool : int
        Max-pooling of the magnitudes.
    eps, slope, floor : float
        See :func:`amsincnet_sb.kernels.cuda.norm.norm_forward`.
    dtype : torch.dtype
        Of the products and the map.

    Returns
    -------
    torch.Tensor
        ``[batch, pooled time, channels padded to a multiple of 16]``; the
        padding is 0. Differentiable once.
    """
    if keep is not None:
        keep = F.pad(keep.to(torch.int8), (0, -len(filters) % 16))
    return _sinc_layer(
        x, filters, gain, shift, keep, pool, eps, slope, floor, dtype
    )[0]


class _SincShape:
    """Sizes of the sinc layer as a block-Toeplitz product.

    A block is ``g`` consecutive output positions, a multiple of the pool and
    of 8 samples, so that rows are aligned; ``w`` samples determine it.
    """

    def __init__(self, samples, channels, taps, pool):
        unit = math.lcm(pool, 8)
        self.g = unit * max(1, round(24 / unit))
        self.cp = channels + -channels % 16
        self.time = (samples - taps + 1) // pool
        self.blocks = -(-self.time * pool // self.g)
        self.w = -(-(taps + self.g - 1) // self.g) * self.g
        self.samples = (self.blocks - 1) * self.g + self.w


@torch.library.custom_op("amsincnet::sinc_layer", mutates_args=())
def _sinc_layer(
    x: torch.Tensor,
    filters: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    keep: torch.Tensor | None,
    pool: int,
    eps: float,
    slope: float,
    floor: float,
    dtype: torch.dtype,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """``y`` and what the backward pass needs."""
    batch, samples = x.shape
    channels, taps = filters.shape
    s = _SincShape(samples, channels, taps, pool)
    padded = F.pad(x.to(dtype), (0, s.samples - samples))
    matrix = padded.new_empty(s.w, s.g * s.cp)
    kernels().toeplitz[(-(-matrix.numel() // 1024),)](
        filters.contiguous(),
        matrix,
        matrix.numel(),
        C=channels,
        K=taps,
        G=s.g,
        CP=s.cp,
        BLOCK=1024,
    )
    n = s.g // pool * s.cp
    z = padded.new_empty(batch, s.blocks * s.g // pool, s.cp)
    code = torch.empty_like(z, dtype=torch.int8)
    window_gemm(
        padded,
        matrix,
        z,
        batch * s.blocks,
        code,
        J=s.blocks,
        SB=s.samples,
        SM=s.g,
        SWK=s.g * s.cp,
        SWG=pool * s.cp,
        SWQ=s.cp,
        KK=s.w,
        N=n,
        CP=s.cp,
        POOL=pool,
        ABS=True,
    )
    affine = affine_of(gain, shift, s.cp)
    y, mean, std = norm_forward(
        z, affine, channels, True, eps, slope, floor, keep
    )
    return y, z, code, mean, std, padded, matrix, affine


@_sinc_layer.register_fake
def _(x, filters, gain, shift, keep, pool, eps, slope, floor, dtype):
    batch, samples = x.shape
    channels, taps = filters.shape
    s = _SincShape(samples, channels, taps, pool)
    z = x.new_empty(batch, s.blocks * s.g // pool, s.cp, dtype=dtype)
    mean = z.new_empty(batch, s.cp, dtype=sum_dtype(z))
    return (
        z.new_empty(batch, s.time, s.cp),
        z,
        torch.empty_like(z, dtype=torch.int8),
        mean,
        torch.empty_like(mean),
        z.new_empty(batch, s.samples),
        z.new_empty(s.w, s.g * s.cp),
        gain.new_empty(2, s.time, s.cp),
    )


@torch.library.custom_op("amsincnet::sinc_layer_backward", mutates_args=())
def _sinc_layer_backward(
    dy: torch.Tensor,
    z: torch.Tensor,
    code: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    padded: torch.Tensor,
    matrix: torch.Tensor,
    affine: torch.Tensor,
    keep: torch.Tensor | None,
    samples: int,
    channels: int,
    taps: int,
    pool: int,
    eps: float,
    slope: float,
    floor: float,
    want_input: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the signal, the filters, gain and shift."""
    s = _SincShape(samples, channels, taps, pool)
    batch = z.shape[0]
    d, parts = norm_backward(
        dy,
        z,
        code,
        affine,
        mean,
        std,
        True,
        pool,
        0,
        s.blocks * s.g // pool,
        eps,
        slope,
        floor,
        keep,
    )
    row = s.g * s.cp
    rows = d.view(batch * s.blocks, row)
    pieces = rearrange(
        padded,
        padded.new_empty(batch * s.blocks, s.w),
        (batch, s.blocks, s.w),
        (s.samples, s.g, 1),
    )
    if d.is_cuda and d.dtype == torch.bfloat16:
        grad = torch.mm(pieces.t(), rows, out_dtype=torch.float32)
    else:
        grad = pieces.t() @ rows
    # Row w, position p of the Toeplitz matrix is tap w - p of the filter.
    dfilters = rearrange(
        grad,
        grad.new_empty(channels, taps),
        (1, taps, channels),
        (0, row, 1),
        into=(0, 1, taps),
        parts=s.g,
        step=row + s.cp,
    )
    dx = mean.new_empty(batch, samples if want_input else 0)
    if want_input:
        windows = rows @ matrix.t()
        kernels().fold[(-(-dx.numel() // 1024),)](
            windows,
            dx,
            dx.numel(),
            T=samples,
            J=s.blocks,
            G=s.g,
            W=s.w,
            ACC=arithmetic(dx)[0],
            BLOCK=1024,
        )
    return dx, dfilters, *affine_gradient(parts, channels)


@_sinc_layer_backward.register_fake
def _(
    dy,
    z,
    code,
    mean,
    std,
    padded,
    matrix,
    affine,
    keep,
    samples,
    channels,
    taps,
    pool,
    eps,
    slope,
    floor,
    want_input,
):
    return (
        mean.new_empty(z.shape[0], samples if want_input else 0),
        mean.new_empty(channels, taps),
        mean.new_empty(channels, affine.shape[1]),
        mean.new_empty(channels, affine.shape[1]),
    )


def _context(ctx, inputs, output):
    x, filters, _, _, keep, pool, eps, slope, floor, _ = inputs
    ctx.save_for_backward(*output[1:], keep)
    ctx.shape = (x.shape[1], *filters.shape, pool, eps, slope, floor)
    ctx.set_materialize_grads(False)


def _gradient(ctx, dy, *_):
    if dy is None:
        return (None,) * 10
    want_input = ctx.needs_input_grad[0]
    dx, *grads = _sinc_layer_backward(
        dy, *ctx.saved_tensors, *ctx.shape, want_input
    )
    return (dx if want_input else None, *grads, *[None] * 6)


_sinc_layer.register_autograd(_gradient, setup_context=_context)
