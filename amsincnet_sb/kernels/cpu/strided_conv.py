"""A convolution that steps over time."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.products import (
    conv_backward,
    image_of,
    map_of,
    weight_image,
)

__all__ = ["conv", "frozen_conv"]

# Without AVX-512 oneDNN takes twice as long for the gradient of a convolution's
# weight as a product of copied windows, so many rows at a time.
_WEIGHTS_BY_PRODUCT = torch.backends.cpu.get_cpu_capability() == "AVX2"
_PRODUCT_ROWS = 2048


def conv(x, weight, stride=1, bias=None):
    """A strided convolution of time-major maps, oneDNN's fastest layout.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time, in]``.
    weight : torch.Tensor
        ``[out, in, taps]``.
    stride : int
        Step between output positions.
    bias : torch.Tensor, optional
        ``[out]``.

    Returns
    -------
    torch.Tensor
        ``[batch, (time - taps) // stride + 1, out]``.
    """
    if _WEIGHTS_BY_PRODUCT and weight.requires_grad and bias is None:
        if x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            return _Conv.apply(x, weight, stride)
    return _convolve(x, weight_image(weight), stride, bias)


def _convolve(x, image, stride, bias=None):
    return map_of(F.conv2d(image_of(x), image, bias, stride=(1, stride)))


class _Conv(torch.autograd.Function):
    """See :func:`conv`."""

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
            images = image_of(grad), image_of(x), weight_image(weight)
            wanted = [True, False, False]
            x_grad = conv_backward(*images, None, wanted, ctx.stride)[0]
            x_grad = map_of(x_grad)
        if ctx.needs_input_grad[1]:
            weight_grad = _weight_gradient(grad, x, weight, ctx.stride)
        return x_grad, weight_grad, None


def _weight_gradient(grad, x, weight, stride):
    """That of a convolution as products of windows copied into the cache."""
    x = x.contiguous()
    batch, rows, channels = x.shape
    time, (out, _, taps) = grad.shape[1], weight.shape
    windows = x.as_strided(
        (batch, time, taps * channels),
        (rows * channels, stride * channels, 1),
        x.storage_offset(),
    )
    total = x.new_zeros(out, taps * channels)
    some = max(1, _PRODUCT_ROWS // time)
    for part, those in zip(grad.split(some), windows.split(some)):
        part = part.reshape(-1, out)
        total.addmm_(part.t(), those.reshape(-1, taps * channels))
    return total.view(out, taps, channels).transpose(1, 2)


def frozen_conv(weight, bias, stride, slope, residual, dtype):
    """A convolution with fixed parameters and what follows it.

    Arguments
    ---------
    weight, bias, stride, slope, residual, dtype
        See :func:`amsincnet_sb.kernels.cuda.frozen.frozen_conv`.

    Returns
    -------
    callable
        ``[batch, time, in]`` to ``[batch, (time - taps) // stride + 1, out]``.
    """
    image = weight_image(weight.detach().to(dtype))
    bias = bias.detach().to(dtype)
    cut = weight.shape[2] // 2

    @torch.no_grad()
    def run(x):
        """Maps to maps."""
        x = x.to(dtype)
        y = F.leaky_relu_(_convolve(x, image, stride, bias), slope)
        if residual:
            y += x[:, cut : cut + y.shape[1]]
        return y

    return run
