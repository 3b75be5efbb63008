"""The sinc layer: waveforms to a feature map, as a block-Toeplitz matmul."""

import math

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cuda.launch import implicit_gemm, rearrange
from amsincnet_sb.kernels.cuda.norm import (
    affine_gradient,
    affine_of,
    norm_backward,
    norm_forward,
)
from amsincnet_sb.kernels.cuda.support import (
    sum_dtype,
    triton_arithmetic,
    wide_product,
)

__all__ = ["sinc_layer", "sinc_pool"]


def sinc_layer(x, filters, gain, shift, keep, pool, eps, slope, floor, dtype):
    """Filtering, max-pooling of magnitudes, normalisation and LeakyReLU.

    ``x`` is ``[batch, time]``, ``keep`` None or ``[batch, channels]``; matmuls
    and result are of ``dtype``. Returns ``[batch, pooled time, channels padded
    to a multiple of 16]``; the padding is 0. Differentiable once.
    """
    if keep is not None:
        keep = F.pad(keep.to(torch.int8), (0, -len(filters) % 16))
    return _sinc_layer(
        x, filters, gain, shift, keep, pool, eps, slope, floor, dtype
    )[0]


def sinc_pool(x, filters, pool, dtype):
    """Filters and max-pooling of magnitudes alone: ``[batch, time, channels]``.

    Of each pool the output of largest magnitude, with its sign. Differentiable
    once, with respect to the filters and ``x``, ``[batch, time]``.
    """
    z = _sinc_pool(x, filters, pool, dtype)[0]
    channels, taps = filters.shape
    return z[:, : (x.shape[1] - taps + 1) // pool, :channels]


class _SincShape:
    """Sizes of the sinc layer as a block-Toeplitz matmul.

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


@torch.library.custom_op(
    "amsincnet::sinc_layer",
    mutates_args=(),
    schema="(Tensor x, Tensor filters, Tensor gain, Tensor shift, "
    "Tensor? keep, SymInt pool, float eps, float slope, float floor, "
    "ScalarType dtype) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _sinc_layer(x, filters, gain, shift, keep, pool, eps, slope, floor, dtype):
    """``y`` and the tensors that the backward pass needs."""
    z, code, padded, matrix = _filter(x, filters, pool, dtype)
    affine = affine_of(gain, shift, z.shape[2])
    y, mean, std = norm_forward(
        z, affine, len(filters), True, eps, slope, floor, keep
    )
    return y, z, code, mean, std, padded, matrix, affine


def _filter(x, filters, pool, dtype):
    """Output of each pool with the largest magnitude, and which it was.

    Both ``[batch, rows, padded channels]``, with rows behind the last pool;
    then what the gradient needs: the waveforms and the Toeplitz matrix.
    """
    from amsincnet_sb.kernels.cuda import triton_matmul

    batch, samples = x.shape
    channels, taps = filters.shape
    s = _SincShape(samples, channels, taps, pool)
    padded = F.pad(x.to(dtype), (0, s.samples - samples))
    matrix = padded.new_empty(s.w, s.g * s.cp)
    triton_matmul.toeplitz[(-(-matrix.numel() // 1024),)](
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
    implicit_gemm(
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
    return z, code, padded, matrix


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


@torch.library.custom_op(
    "amsincnet::sinc_layer_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor z, Tensor code, Tensor mean, Tensor std, "
    "Tensor padded, Tensor matrix, Tensor affine, Tensor? keep, "
    "SymInt samples, SymInt channels, SymInt taps, SymInt pool, float eps, "
    "float slope, float floor, bool want_input) "
    "-> (Tensor, Tensor, Tensor)",
)
def _sinc_layer_backward(
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
    """Gradients of the waveform, the filters, and gain and shift."""
    s = _SincShape(samples, channels, taps, pool)
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
    dx, dfilters = _filter_backward(
        d, padded, matrix, samples, channels, taps, pool, want_input
    )
    return dx, dfilters, affine_gradient(parts, channels)


def _filter_backward(
    d, padded, matrix, samples, channels, taps, pool, want_input
):
    """Gradients of the waveform and the filters from that before pooling."""
    from amsincnet_sb.kernels.cuda import triton_matmul

    s = _SincShape(samples, channels, taps, pool)
    batch, row = len(padded), s.g * s.cp
    rows = d.view(batch * s.blocks, row)
    pieces = rearrange(
        padded,
        padded.new_empty(batch * s.blocks, s.w),
        (batch, s.blocks, s.w),
        (s.samples, s.g, 1),
    )
    grad = wide_product(pieces.t(), rows)
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
    size = batch, samples if want_input else 0
    dx = torch.empty(size, dtype=sum_dtype(d), device=d.device)
    if want_input:
        overlapping = rows @ matrix.t()
        triton_matmul.fold[(-(-dx.numel() // 1024),)](
            overlapping,
            dx,
            dx.numel(),
            T=samples,
            J=s.blocks,
            G=s.g,
            W=s.w,
            ACC=triton_arithmetic(dx)[0],
            BLOCK=1024,
        )
    return dx, dfilters


@_sinc_layer_backward.register_fake
def _(dy, z, code, mean, std, padded, matrix, affine, keep, samples, *sizes):
    channels, taps, *_, want_input = sizes
    return (
        mean.new_empty(z.shape[0], samples if want_input else 0),
        mean.new_empty(channels, taps),
        mean.new_empty(2, channels, affine.shape[1]),
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
    dx, dfilters, affine = _sinc_layer_backward(
        dy, *ctx.saved_tensors, *ctx.shape, want_input
    )
    return (dx if want_input else None, dfilters, *affine, *[None] * 6)


_sinc_layer.register_autograd(_gradient, setup_context=_context)


@torch.library.custom_op(
    "amsincnet::sinc_pool",
    mutates_args=(),
    schema="(Tensor x, Tensor filters, SymInt pool, ScalarType dtype) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _sinc_pool(x, filters, pool, dtype):
    """See :func:`_filter`."""
    return _filter(x, filters, pool, dtype)


@_sinc_pool.register_fake
def _(x, filters, pool, dtype):
    batch, samples = x.shape
    s = _SincShape(samples, *filters.shape, pool)
    z = x.new_empty(batch, s.blocks * s.g // pool, s.cp, dtype=dtype)
    return (
        z,
        torch.empty_like(z, dtype=torch.int8),
        z.new_empty(batch, s.samples),
        z.new_empty(s.w, s.g * s.cp),
    )


@torch.library.custom_op(
    "amsincnet::sinc_pool_backward",
    mutates_args=(),
    schema="(Tensor d, Tensor padded, Tensor matrix, SymInt samples, "
    "SymInt channels, SymInt taps, SymInt pool, bool want_input) "
    "-> (Tensor, Tensor)",
)
def _sinc_pool_backward(
    d, padded, matrix, samples, channels, taps, pool, want_input
):
    """See :func:`_filter_backward`."""
    return _filter_backward(
        d.contiguous(),
        padded,
        matrix,
        samples,
        channels,
        taps,
        pool,
        want_input,
    )


@_sinc_pool_backward.register_fake
def _(d, padded, matrix, samples, channels, taps, pool, want_input):
    shape = len(d), samples if want_input else 0
    return (
        d.new_empty(shape, dtype=sum_dtype(d)),
        d.new_empty(channels, taps, dtype=sum_dtype(d)),
    )


def _pool_context(ctx, inputs, output):
    x, filters, ctx.pool, _ = inputs
    ctx.save_for_backward(*output[1:])
    ctx.shape = x.shape[1], *filters.shape
    ctx.set_materialize_grads(False)


def _pool_gradient(ctx, dz, *_):
    if dz is None:
        return (None,) * 4
    code, padded, matrix = ctx.saved_tensors
    d = dz
    if ctx.pool > 1:
        # Which of a pool was largest gets the gradient; the compiler makes it
        # one kernel with what lies behind.
        which = torch.arange(ctx.pool, dtype=torch.int8, device=dz.device)
        chosen = code.unsqueeze(2) == which[:, None]
        d = torch.where(chosen, dz.unsqueeze(2), 0).flatten(1, 2)
    want_input = ctx.needs_input_grad[0]
    dx, dfilters = _sinc_pool_backward(
        d.to(padded.dtype), padded, matrix, *ctx.shape, ctx.pool, want_input
    )
    return dx if want_input else None, dfilters, None, None


_sinc_pool.register_autograd(_pool_gradient, setup_context=_pool_context)
