"""Matmuls and convolutions in oneDNN, in the layouts it is fastest with."""

import torch
import torch.nn.functional as F

__all__ = [
    "conv_backward",
    "from_image",
    "matmul_t",
    "to_image",
    "weight_image",
]

# The operator of linear layers that torch.compile compiles for CPUs.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def matmul_t(a, b, bias=None):
    """``a @ b.T + bias`` of ``[m, k]`` and ``[n, k]``."""
    if a.dtype == torch.float32 and _HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def to_image(x):
    """``[batch, time, channels]`` as images of one line, channels last.

    A view, ``[batch, channels, 1, time]``.
    """
    return x.transpose(1, 2).unsqueeze(2)


def from_image(image):
    """The inverse of :func:`to_image`."""
    return image.squeeze(2).transpose(1, 2)


def weight_image(weight):
    """``[out, in, taps]`` as ``[out, in, 1, taps]``, channels last."""
    weight = weight.unsqueeze(2)
    return weight.contiguous(memory_format=torch.channels_last)


def conv_backward(grad, x, weight, bias, wanted, stride=1):
    """Gradients of ``F.conv2d(x, weight, bias, stride=(1, stride))``.

    Three, of ``x``, ``weight`` and ``bias``; None where not ``wanted``.
    """
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None if bias is None else list(bias.shape),
        [1, stride],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        wanted,
    )
