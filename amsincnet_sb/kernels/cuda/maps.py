"""Windows to the maps behind SincNet's convolutional part."""

import torch

from amsincnet_sb.kernels.cuda.pooled_conv import pooled_conv
from amsincnet_sb.kernels.cuda.precision import product_dtype
from amsincnet_sb.kernels.cuda.sinc_layer import sinc_layer
from amsincnet_sb.nnet.normalization import standardise

__all__ = ["cnn", "map_of", "sinc_map"]


def cnn(x, input_norm, filters, convs, norms, pools, eps=1e-6, slope=0.2):
    """SincNet's convolutional part.

    Arguments
    ---------
    x : torch.Tensor
        Windows, ``[batch, time]``.
    input_norm : tuple of torch.Tensor
        Gain and bias of the input's normalisation, each ``[time]``.
    filters : torch.Tensor
        Impulse responses of the sinc layer, ``[channels, taps]``.
    convs : list of tuple of torch.Tensor
        Weight ``[out, in, taps]`` and bias ``[out]`` of each convolution
        behind the sinc layer.
    norms : list of tuple of torch.Tensor
        Gain and bias of the normalisation behind each layer, ``[channels,
        pooled time]``.
    pools : sequence of int
        Max-pooling behind each layer.
    eps : float
        Added to standard deviations.
    slope : float
        Of the LeakyReLUs for negative numbers; at least 0.

    Returns
    -------
    torch.Tensor
        ``[batch, channels * time]``, channel-major; of the precision computed
        in. Differentiable once with respect to every tensor given.
    """
    layers = input_norm, filters, convs, norms, pools
    return map_of(x, layers, eps, slope, 0.0).transpose(1, 2).flatten(1)


def map_of(x, layers, eps, slope, floor, keep=None):
    """The last layer's map.

    Arguments
    ---------
    x, eps, slope
        See :func:`cnn`.
    layers : tuple
        The arguments ``input_norm`` to ``pools`` of :func:`cnn`.
    floor, keep
        See :func:`sinc_map`.

    Returns
    -------
    torch.Tensor
        ``[batch, time, channels]``, of the precision computed in.
    """
    input_norm, filters, convs, norms, pools = layers
    dtype = product_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x = standardise(x, eps)
        if input_norm is not None:
            x = x * input_norm[0] + input_norm[1]
        x = sinc_layer(
            x, filters, *norms[0], keep, pools[0], eps, slope, floor, dtype
        )
        for conv, norm, pool in zip(convs, norms[1:], pools[1:]):
            x = pooled_conv(x, *conv, *norm, pool, eps, slope)
    return x[..., : len(norms[-1][0])]


def sinc_map(
    x,
    input_norm,
    filters,
    norm,
    pool,
    eps=1e-6,
    slope=0.2,
    floor=0.0,
    keep=None,
):
    """The sinc layer alone: filtered, pooled, normalised, rectified.

    Arguments
    ---------
    x, filters, eps, slope
        See :func:`cnn`.
    input_norm : tuple of torch.Tensor, optional
        Likewise; without it the input is normalised and no more.
    norm : tuple of torch.Tensor
        Gain and bias of the normalisation, each ``[channels, time]``.
    pool : int
        Max-pooling of the magnitudes.
    floor : float
        Where positive, ``log(magnitude + floor)`` is what is normalised.
    keep : torch.Tensor, optional
        ``[batch, channels]``, bool; what it does not name becomes zero.

    Returns
    -------
    torch.Tensor
        ``[batch, time, channels]``, of the precision computed in.
        Differentiable once with respect to every tensor given.
    """
    layers = input_norm, filters, [], [norm], [pool]
    return map_of(x, layers, eps, slope, floor, keep)
