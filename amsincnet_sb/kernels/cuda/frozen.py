"""A network's layers on CUDA with parameters that no longer change.

What evaluation needs, without gradients: batch normalisation is part of the
weights, and what follows a product is done where it is in registers. Products
of float16 numbers have the digits of TF32 ones at twice the speed.
"""

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cuda.launch import kernels, plain_gemm, power_of_2
from amsincnet_sb.kernels.cuda.maps import map_of
from amsincnet_sb.kernels.cuda.precision import arithmetic, sum_dtype
from amsincnet_sb.kernels.cuda.strided_conv import matrix_of, pad_channels
from amsincnet_sb.nnet.pooling import VARIANCE_FLOOR

__all__ = ["frozen_cnn", "frozen_conv", "frozen_linear", "statistics"]


def frozen_cnn(
    input_norm, filters, convs, norms, pools, eps, slope, dtype, floor=0.0
):
    """See :func:`amsincnet_sb.kernels.cpu.frozen_cnn`.

    Arguments
    ---------
    input_norm, filters, convs, norms, pools, eps, slope, floor
        See :func:`amsincnet_sb.kernels.cuda.maps.cnn` and ``sinc_map``.
    dtype : torch.dtype
        Of the products.

    Returns
    -------
    callable
        ``[batch, time]`` to ``[batch, time, channels]``, without gradient.
        Later changes of the parameters do not reach it.
    """
    layers = (
        None if input_norm is None else _copies(input_norm),
        filters.detach().clone(),
        [_copies(conv) for conv in convs],
        [_copies(norm) for norm in norms],
        tuple(pools),
    )
    half = dtype in (torch.float16, torch.bfloat16)

    @torch.no_grad()
    def run(x):
        """Windows to features."""
        with torch.autocast(x.device.type, dtype=dtype, enabled=half):
            return map_of(x, layers, eps, slope, floor)

    return run


def _copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def frozen_conv(weight, bias, stride, slope, residual, dtype):
    """A strided convolution of time-major maps and what follows it.

    Arguments
    ---------
    weight : torch.Tensor
        ``[out, in, taps]``.
    bias : torch.Tensor
        ``[out]``.
    stride : int
        Step between output positions.
    slope : float
        Of the LeakyReLU behind it, for negative numbers.
    residual : bool
        Whether the middle of the input is added to the result.
    dtype : torch.dtype
        Of the products and the maps.

    Returns
    -------
    callable
        ``[batch, time, in]`` to ``[batch, (time - taps) // stride + 1, out]``.
    """
    out, channels, taps = weight.shape
    matrix = matrix_of(pad_channels(weight.detach()), dtype).contiguous()
    columns = matrix.shape[1]
    pad = len(matrix) // taps - channels
    bias = bias.detach().clone()
    skip = taps // 2 * (channels + pad) if residual else -1

    @torch.no_grad()
    def run(x):
        """Maps to maps."""
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


def frozen_linear(weight, bias, dtype):
    """A linear layer whose inner size tensor cores can read.

    Arguments
    ---------
    weight : torch.Tensor
        ``[out, in]``.
    bias : torch.Tensor
        ``[out]``.
    dtype : torch.dtype
        Of the product.

    Returns
    -------
    callable
        ``[batch, in]`` to ``[batch, out]``, of that type.
    """
    pad = -weight.shape[1] % 8
    weight = F.pad(weight.detach(), (0, pad)).to(dtype)
    bias = bias.detach().to(dtype)

    @torch.no_grad()
    def run(x):
        """Vectors to vectors."""
        x = x.to(dtype)
        return F.linear(F.pad(x, (0, pad)) if pad else x, weight, bias)

    return run


@torch.no_grad()
def statistics(x):
    """See :func:`amsincnet_sb.nnet.pooling.statistics`; without gradient.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time, channels]``.

    Returns
    -------
    torch.Tensor
        ``[batch, 2 * channels]``, float32.
    """
    x = x.contiguous()
    batch, time, channels = x.shape
    out = torch.empty(batch, 2 * channels, dtype=sum_dtype(x), device=x.device)
    tile = 32
    kernels().mean_and_std[(batch * -(-channels // tile),)](
        x,
        out,
        VARIANCE_FLOOR,
        T=time,
        C=channels,
        ACC=arithmetic(x)[0],
        TB=min(128, power_of_2(time)),
        CB=tile,
        num_warps=4,
    )
    return out
