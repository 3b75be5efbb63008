"""Normalisation over time, forward and backward, and statistics pooling."""

import torch

from amsincnet_sb.kernels.cuda.launch import power_of_2, rearrange
from amsincnet_sb.kernels.cuda.support import sum_dtype, triton_arithmetic
from amsincnet_sb.nnet.normalization import TINY
from amsincnet_sb.nnet.pooling import VARIANCE_FLOOR

__all__ = [
    "affine_gradient",
    "affine_of",
    "fixed_norm",
    "norm_backward",
    "norm_forward",
    "statistics",
]


def affine_of(gain, shift, cp):
    """Gain and shift ``[channels, time]`` as ``[2, time, padded channels]``."""
    from amsincnet_sb.kernels.cuda import triton_reductions

    channels, time = gain.shape
    out = gain.new_empty(2, time, cp)
    tile = 32
    triton_reductions.affine[(-(-time // tile) * -(-cp // tile), 2)](
        gain.contiguous(),
        shift.contiguous(),
        out,
        C=channels,
        T=time,
        CP=cp,
        TB=tile,
        CB=tile,
        num_warps=4,
    )
    return out


def affine_gradient(parts, channels):
    """Gradients of gain and shift, ``[2, channels, time]``."""
    _, count, time, cp = parts.shape
    return rearrange(
        parts,
        parts.new_empty(2, channels, time),
        (2, channels, time),
        (count * time * cp, 1, cp),
        parts=count,
        step=time * cp,
    )


def norm_forward(
    z, affine, channels, absolute, eps, slope, floor=0.0, keep=None
):
    """Normalisation, gain, shift and LeakyReLU of a convolution's output.

    ``z`` is ``[batch, rows, cp]``; rows behind ``time`` are not read. With
    ``absolute`` its magnitudes are normalised. ``affine`` is from
    :func:`affine_of`, ``channels`` is without the padding, and where ``keep``,
    int8 ``[batch, cp]``, is 0, so is the result.

    Returns ``y``, ``[batch, time, cp]`` with 0 in the padding, and the means
    and deviations, each ``[batch, cp]``.
    """
    from amsincnet_sb.kernels.cuda import triton_reductions

    batch, rows, cp = z.shape
    time = affine.shape[1]
    y = z.new_empty(batch, time, cp)
    mean = torch.empty(batch, cp, dtype=sum_dtype(z), device=z.device)
    std = torch.empty_like(mean)
    tiles = _tiles(time, cp)
    triton_reductions.norm_forward[(batch * -(-cp // tiles["CB"]),)](
        z,
        affine[0],
        affine[1],
        z if keep is None else keep,
        y,
        mean,
        std,
        eps,
        TINY,
        slope,
        floor,
        T=time,
        TZ=rows,
        C=channels,
        CP=cp,
        ABS=absolute,
        LOG=floor > 0,
        MASKED=keep is not None,
        ACC=triton_arithmetic(z)[0],
        **tiles,
    )
    return y, mean, std


def norm_backward(
    dy,
    z,
    code,
    affine,
    mean,
    std,
    absolute,
    pool,
    lead,
    rows,
    eps,
    slope,
    floor=0.0,
    keep=None,
):
    """Gradients of the convolution's output, the gain and the shift.

    ``dy`` is the gradient of ``y`` of :func:`norm_forward`; ``code``, of the
    shape of ``z``, says which of ``pool`` values was largest.

    Returns ``[batch, rows * pool, cp]``, with ``lead`` pooled rows of zeros
    before the gradient and zeros behind it, and the parts for
    :func:`affine_gradient`.
    """
    from amsincnet_sb.kernels.cuda import triton_reductions

    batch, stored, cp = z.shape
    time = affine.shape[1]
    acc = triton_arithmetic(z)[0]
    total, dot = torch.empty_like(mean), torch.empty_like(mean)
    # A convolution's gradient has rows of its own behind the last.
    if dy.stride()[1:] != (cp, 1) or dy.stride(0) % cp:
        dy = dy.contiguous()
    common = {"T": time, "TZ": stored, "TY": dy.stride(0) // cp}
    common |= {"CP": cp, "ACC": acc}
    common |= {"ABS": absolute, "LOG": floor > 0, "MASKED": keep is not None}
    kept = z if keep is None else keep
    read = affine[0], affine[1], kept, mean, std, total, dot
    tiles = _tiles(time, cp)
    triton_reductions.norm_sums[(batch * -(-cp // tiles["CB"]),)](
        dy, z, *read, eps, slope, floor, **tiles, **common
    )
    d = z.new_empty(batch, rows * pool, cp)
    block = 1024  # values of a program, which goes over some examples
    columns = -(-rows * cp // block)
    splits = max(1, min(batch, 16, 528 // columns))
    examples = -(-batch // splits)
    splits = -(-batch // examples)
    parts = torch.empty(2, splits, time, cp, dtype=mean.dtype, device=z.device)
    triton_reductions.norm_backward[(columns, splits)](
        dy,
        z,
        code,
        *read,
        d,
        parts[0],
        parts[1],
        batch,
        examples,
        eps,
        slope,
        floor,
        TD=rows,
        LEAD=lead,
        POOL=pool,
        BLOCK=block,
        num_warps=4,
        **common,
    )
    return d, parts


def fixed_norm(x, gain, shift, slope, floor):
    """Gain and shift ``[channels]`` of magnitudes, and a LeakyReLU.

    Where ``floor`` is positive, of ``log(magnitude + floor)``. Without
    gradient; ``x`` and the result are ``[batch, time, channels]``.
    """
    from amsincnet_sb.kernels.cuda import triton_reductions

    batch, time, channels = x.shape
    y = x.new_empty(batch, time, channels)
    triton_reductions.fixed_norm[(-(-y.numel() // 1024),)](
        x,
        gain,
        shift,
        y,
        y.numel(),
        slope,
        floor,
        T=time,
        C=channels,
        SB=x.stride(0),
        ST=x.stride(1),
        LOG=floor > 0,
        ACC=triton_arithmetic(x)[0],
        BLOCK=1024,
        num_warps=4,
    )
    return y


@torch.no_grad()
def statistics(x):
    """See :meth:`amsincnet_sb.kernels.Kernels.statistics`."""
    from amsincnet_sb.kernels.cuda import triton_reductions

    x = x.contiguous()
    batch, time, channels = x.shape
    out = torch.empty(batch, 2 * channels, dtype=sum_dtype(x), device=x.device)
    tile = 32
    triton_reductions.mean_and_std[(batch * -(-channels // tile),)](
        x,
        out,
        VARIANCE_FLOOR,
        T=time,
        C=channels,
        ACC=triton_arithmetic(x)[0],
        TB=min(128, power_of_2(time)),
        CB=tile,
        num_warps=4,
    )
    return out


def _tiles(time, cp):
    """Tile sizes and warps of a kernel over all time of some channels."""
    tiles = {"TB": min(128, power_of_2(time)), "CB": min(32, power_of_2(cp))}
    return tiles | {"num_warps": 8 if time > 64 else 4}
