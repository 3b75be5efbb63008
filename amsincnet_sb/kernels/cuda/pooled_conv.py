"""A layer of SincNet: convolution, max-pooling, normalisation, LeakyReLU."""

import torch

from amsincnet_sb.kernels.cuda.launch import (
    implicit_gemm,
    implicit_gemm_grad,
    rearrange,
)
from amsincnet_sb.kernels.cuda.norm import (
    affine_gradient,
    affine_of,
    norm_backward,
    norm_forward,
)
from amsincnet_sb.kernels.cuda.support import sum_dtype

__all__ = ["pooled_conv"]


def pooled_conv(x, weight, bias, gain, shift, pool, eps, slope):
    """Convolution, max-pooling, normalisation and LeakyReLU.

    ``x`` is ``[batch, time, in]`` with the channels padded to a multiple of
    16, and so is the result, ``[batch, pooled time, out]``, whose padding is
    0; the parameters are without padding. Differentiable once.
    """
    return _pooled_conv(x, weight, bias, gain, shift, pool, eps, slope)[0]


@torch.library.custom_op(
    "amsincnet::pooled_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor gain, Tensor shift, "
    "SymInt pool, float eps, float slope) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _pooled_conv(x, weight, bias, gain, shift, pool, eps, slope):
    """``y`` and the tensors that the backward pass needs."""
    batch, rows, cin = x.shape
    channels, channels_in, taps = weight.shape
    cp = channels + -channels % 16
    time = (rows - taps + 1) // pool
    z = x.new_empty(batch, time, cp)
    code = torch.empty_like(z, dtype=torch.int8)
    packed = rearrange(
        weight.contiguous(),
        x.new_empty(taps, cin, cp),
        (taps, cin, cp),
        (1, taps, channels_in * taps),
        valid=(channels_in, channels),
    )
    implicit_gemm(
        x,
        packed,
        z,
        batch * time,
        code,
        bias,
        J=time,
        SB=rows * cin,
        SM=pool * cin,
        SQ=cin,
        SWK=cp,
        KK=taps * cin,
        N=cp,
        POOL=pool,
    )
    affine = affine_of(gain, shift, cp)
    y, mean, std = norm_forward(z, affine, channels, False, eps, slope)
    return y, z, code, mean, std, packed, affine


@_pooled_conv.register_fake
def _(x, weight, bias, gain, shift, pool, eps, slope):
    batch, rows, cin = x.shape
    channels, _, taps = weight.shape
    cp = channels + -channels % 16
    z = x.new_empty(batch, (rows - taps + 1) // pool, cp)
    mean = z.new_empty(batch, cp, dtype=sum_dtype(z))
    return (
        torch.empty_like(z),
        z,
        torch.empty_like(z, dtype=torch.int8),
        mean,
        torch.empty_like(mean),
        x.new_empty(taps, cin, cp),
        gain.new_empty(2, z.shape[1], cp),
    )


@torch.library.custom_op(
    "amsincnet::pooled_conv_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor z, Tensor code, Tensor mean, Tensor std, "
    "Tensor packed, Tensor affine, Tensor x, SymInt channels, "
    "SymInt channels_in, SymInt pool, float eps, float slope) "
    "-> (Tensor, Tensor, Tensor)",
)
def _pooled_conv_backward(
    dy,
    z,
    code,
    mean,
    std,
    packed,
    affine,
    x,
    channels,
    channels_in,
    pool,
    eps,
    slope,
):
    """Gradients of the input, the weight, and gain and shift."""
    batch, rows, cin = x.shape
    taps, _, cp = packed.shape
    time = z.shape[1]
    # Rows of zeros around the gradient, so that the gradient of the input is
    # a convolution too, without conditions.
    lead = -(-(taps - 1) // pool)
    stored = lead + -(-rows // pool)
    d, parts = norm_backward(
        dy, z, code, affine, mean, std, False, pool, lead, stored, eps, slope
    )
    grad = implicit_gemm_grad(
        x,
        d,
        batch * time * pool,
        J=time * pool,
        SB=rows * cin,
        SM=cin,
        DB=stored * pool * cp,
        DM=cp,
        D0=lead * pool * cp,
        KK=taps * cin,
        N=cp,
    ).sum(0)
    dweight = rearrange(
        grad,
        grad.new_empty(channels, channels_in, taps),
        (taps, channels_in, channels),
        (cin * cp, cp, 1),
        into=(1, taps, channels_in * taps),
    )
    dx = torch.empty_like(x)
    implicit_gemm(
        d[:, lead * pool - (taps - 1) :],
        # From the last tap back, in and out exchanged.
        packed[-1],
        dx,
        batch * rows,
        J=rows,
        SB=stored * pool * cp,
        SM=cp,
        RK=cp,
        SWR=-cin * cp,
        SWK=1,
        SWN=cp,
        KK=taps * cp,
        N=cin,
    )
    return dx, dweight, affine_gradient(parts, channels)


@_pooled_conv_backward.register_fake
def _(dy, z, code, mean, std, packed, affine, x, channels, channels_in, *_):
    return (
        torch.empty_like(x),
        mean.new_empty(channels, channels_in, packed.shape[0]),
        mean.new_empty(2, channels, affine.shape[1]),
    )


def _context(ctx, inputs, output):
    x, weight, _, _, _, pool, eps, slope = inputs
    ctx.save_for_backward(*output[1:], x)
    ctx.shape = (*weight.shape[:2], pool, eps, slope)
    ctx.set_materialize_grads(False)


def _gradient(ctx, dy, *_):
    if dy is None:
        return (None,) * 8
    dx, dweight, affine = _pooled_conv_backward(
        dy, *ctx.saved_tensors, *ctx.shape
    )
    # A bias is constant over time, so the normalisation takes it out again:
    # its gradient is zero, exactly (the plain path's is rounding noise).
    dbias = affine.new_zeros(affine.shape[1])
    return dx, dweight, dbias, *affine, None, None, None


_pooled_conv.register_autograd(_gradient, setup_context=_context)
