"""Products, all in oneDNN, and the layouts it is fastest with."""

import torch
import torch.nn.functional as F

__all__ = ["conv_backward", "image_of", "map_of", "product", "weight_image"]

# What torch.compile uses for its linear layers on CPUs.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def product(a, b, bias=None):
    """``a @ b.T + bias``.

    Arguments
    ---------
    a, b : torch.Tensor
        ``[m, k]`` and ``[n, k]``.
    bias : torch.Tensor, optional
        ``[n]``.

    Returns
    -------
    torch.Tensor
        ``[m, n]``.
    """
    if a.dtype == torch.float32 and _HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def image_of(x):
    """A map as an image of one line, channels last.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time, channels]``.

    Returns
    -------
    torch.Tensor
        ``[batch, channels, 1, time]``, a view.
    """
    return x.transpose(1, 2).unsqueeze(2)


def map_of(image):
    """The inverse of :func:`image_of`.

    Arguments
    ---------
    image : torch.Tensor
        ``[batch, channels, 1, time]``.

    Returns
    -------
    torch.Tensor
        ``[batch, time, channels]``, a view.
    """
    return image.squeeze(2).transpose(1, 2)


def weight_image(weight):
    """A convolution's weight as that of one of images.

    Arguments
    ---------
    weight : torch.Tensor
        ``[out, in, taps]``.

    Returns
    -------
    torch.Tensor
        ``[out, in, 1, taps]``, channels last.
    """
    weight = weight.unsqueeze(2)
    return weight.contiguous(memory_format=torch.channels_last)


def conv_backward(grad, x, weight, bias, wanted, stride=1):
    """Gradients of ``F.conv2d(x, weight, bias, stride=(1, stride))``.

    Arguments
    ---------
    grad : torch.Tensor
        That of the result.
    x, weight, bias : torch.Tensor
        What went in; the last may be None.
    wanted : list of bool
        Which of the three gradients are computed.
    stride : int
        Step between output positions.

    Returns
    -------
    tuple of torch.Tensor
        Three; None where not wanted.
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
