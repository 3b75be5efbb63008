"""Strided convolutions; see :class:`amsincnet_sb.kernels.Kernels`."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.matmul import (
    conv_backward,
    from_image,
    to_image,
    weight_image,
)
from amsincnet_sb.kernels.cpu.winograd import TAPS, frozen_winograd, winograd

__all__ = ["conv", "frozen_conv"]

# Without AVX-512 oneDNN takes twice as long for the gradient of a convolution's
# weight as a matmul of copied rows, so many at a time.
_WEIGHT_GRADIENT_BY_MATMUL = torch.backends.cpu.get_cpu_capability() == "AVX2"
_MATMUL_ROWS = 2048
# Channels in times channels out from which half of the multiplications are
# worth the additions: in training, and for a few windows and two threads, too.
_HALVED, _HALVED_ALWAYS = 128 * 256, 256 * 384


def conv(x, weight, stride=1):
    """See :meth:`amsincnet_sb.kernels.Kernels.conv`."""
    exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if exact and weight.requires_grad:
        if _can_be_halved(weight, stride, _HALVED):
            return winograd(x, weight)
        if _WEIGHT_GRADIENT_BY_MATMUL:
            return _Conv.apply(x, weight, stride)
    return _convolve(x, weight_image(weight), stride)


def frozen_conv(weight, bias, stride, slope, residual, dtype):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_conv`."""
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    cut = weight.shape[2] // 2
    if _can_be_halved(weight, stride, _HALVED_ALWAYS):
        convolve = frozen_winograd(weight, bias)
    else:
        image = weight_image(weight)

        def convolve(x):
            """As written."""
            return _convolve(x, image, stride, bias)

    @torch.no_grad()
    def run(x):
        """``[batch, time, channels]`` to the same."""
        x = x.to(dtype)
        y = F.leaky_relu_(convolve(x), slope)
        if residual:
            y += x[:, cut : cut + y.shape[1]]
        return y

    return run


def _can_be_halved(weight, stride, least):
    """Whether :mod:`.winograd` serves, and for so many channels at least."""
    wide = weight[..., 0].numel() >= least
    exact = weight.dtype == torch.float32
    return wide and exact and (weight.shape[2], stride) == (TAPS, 1)


def _convolve(x, image, stride, bias=None):
    return from_image(F.conv2d(to_image(x), image, bias, stride=(1, stride)))


class _Conv(torch.autograd.Function):
    """:func:`conv` with the gradient of the weight as matmuls."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        """See torch.autograd.Function."""
        ctx.stride = stride
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight_image(weight), stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images = to_image(grad), to_image(x), weight_image(weight)
            wanted = [True, False, False]
            x_grad = conv_backward(*images, None, wanted, ctx.stride)[0]
            x_grad = from_image(x_grad)
        if ctx.needs_input_grad[1]:
            weight_grad = _weight_gradient(grad, x, weight, ctx.stride)
        return x_grad, weight_grad, None


def _weight_gradient(grad, x, weight, stride):
    """Matmuls of the overlapping rows of ``x``, copied into the cache."""
    x = x.contiguous()
    batch, time_in, channels = x.shape
    time, (out, _, taps) = grad.shape[1], weight.shape
    rows = x.as_strided(
        (batch, time, taps * channels),
        (time_in * channels, stride * channels, 1),
        x.storage_offset(),
    )
    total = x.new_zeros(out, taps * channels)
    some = max(1, _MATMUL_ROWS // time)
    for part, those in zip(grad.split(some), rows.split(some)):
        part = part.reshape(-1, out)
        total.addmm_(part.t(), those.reshape(-1, taps * channels))
    return total.view(out, taps, channels).transpose(1, 2)
