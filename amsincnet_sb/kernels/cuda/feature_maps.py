"""Waveforms to the feature map behind SincNet's convolutional part.

See :class:`amsincnet_sb.kernels.Kernels` for the arguments. Results are of
the precision computed in, and differentiable once with respect to every
tensor given.
"""

import torch

from amsincnet_sb.kernels.cuda.norm import fixed_norm
from amsincnet_sb.kernels.cuda.pooled_conv import pooled_conv
from amsincnet_sb.kernels.cuda.sinc_layer import sinc_layer, sinc_pool
from amsincnet_sb.kernels.cuda.support import matmul_dtype, sum_dtype
from amsincnet_sb.nnet.normalization import standardise

__all__ = ["cnn", "frozen_cnn", "sinc_map"]


def cnn(x, input_norm, filters, convs, norms, pools, eps, slope):
    """See :meth:`amsincnet_sb.kernels.Kernels.cnn`."""
    layers = input_norm, filters, convs, norms, pools
    return _last_map(x, layers, eps, slope, 0.0).transpose(1, 2).flatten(1)


def sinc_map(
    x, input_norm, filters, norm, pool, eps, slope, floor=0.0, keep=None
):
    """See :meth:`amsincnet_sb.kernels.Kernels.sinc_map`."""
    if norm is None:
        dtype = matmul_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            x = sinc_pool(standardise(x, eps), filters, pool, dtype).abs()
            x = x.to(sum_dtype(x))
            return (x + floor).log() if floor > 0 else x
    layers = input_norm, filters, [], [norm], [pool]
    return _last_map(x, layers, eps, slope, floor, keep)


def frozen_cnn(
    input_norm, filters, convs, norms, pools, eps, slope, dtype, floor=0.0
):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_cnn`.

    float16 matmuls have the digits of TF32 ones at twice the speed.
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
        """``[batch, time]`` to ``[batch, time, channels]``."""
        with torch.autocast(x.device.type, dtype=dtype, enabled=half):
            return _last_map(x, layers, eps, slope, floor)

    return run


def _copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def _last_map(x, layers, eps, slope, floor, keep=None):
    """The last layer's feature map, ``[batch, time, channels]``."""
    input_norm, filters, convs, norms, pools = layers
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x = standardise(x, eps)
        if input_norm is not None:
            x = x * input_norm[0] + input_norm[1]
        if norms[0][0].dim() == 1:
            x = sinc_pool(x, filters, pools[0], dtype)
            return fixed_norm(x, *norms[0], slope, floor)
        x = sinc_layer(
            x, filters, *norms[0], keep, pools[0], eps, slope, floor, dtype
        )
        for conv, norm, pool in zip(convs, norms[1:], pools[1:]):
            x = pooled_conv(x, *conv, *norm, pool, eps, slope)
    return x[..., : len(norms[-1][0])]
