"""Windows to the maps behind SincNet's convolutional part."""

import torch
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.folding import fold_filters
from amsincnet_sb.kernels.cpu.network import Network

__all__ = ["cnn", "frozen_cnn", "sinc_map"]

# Numbers in the sinc layer's full map for one slice: 16 windows of the released
# network. From 4 to 24 are about equally fast with 32 MB of cache; from 16 on,
# torch gives the sinc layer to oneDNN with a single thread, too.
_SLICE = 16 * 80 * 2950

# glibc gives memory back to the system, to ask for it again page by page,
# until a block this large has been freed once; then it keeps the slices'.
torch.empty(31 * 2**20, dtype=torch.uint8)


def cnn(x, input_norm, filters, convs, norms, pools, eps, slope):
    """Sinc layer and convolutions, each pooled, normalised, rectified.

    Under CPU autocast the products are computed in its precision and
    everything else in float32.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time]``.
    input_norm : tuple of torch.Tensor
        Gain and bias of the input's TimeLayerNorm, each ``[time]``.
    filters : torch.Tensor
        ``[channels, taps]``, symmetric in time, an odd number of taps. Their
        gradient is that of symmetric filters: mirrored taps share it equally.
    convs : sequence of tuple of torch.Tensor
        Weight ``[out, in, taps]`` and bias ``[out]`` of each convolution.
    norms : sequence of tuple of torch.Tensor
        Gain and bias of the TimeLayerNorm behind each pooling, each
        ``[channels, time]``; one more than convolutions.
    pools : sequence of int
        Max-pooling behind each layer.
    eps : float
        Of the TimeLayerNorms.
    slope : float
        Negative slope of the LeakyReLUs, not negative itself.

    Returns
    -------
    torch.Tensor
        ``[batch, channels * time]``, channel-major.

    Raises
    ------
    ValueError
        If the filters are not symmetric.

    Example
    -------
    >>> from amsincnet_sb.nnet.sinc import SincConv
    >>> ones = lambda *shape: (torch.ones(shape), torch.zeros(shape))
    >>> y = cnn(
    ...     torch.randn(2, 400),
    ...     ones(400),
    ...     SincConv(8, 51).filters(),
    ...     [(torch.randn(4, 8, 5), torch.zeros(4))],
    ...     [ones(8, 116), ones(4, 56)],
    ...     pools=[3, 2],
    ...     eps=1e-6,
    ...     slope=0.2,
    ... )
    >>> y.shape
    torch.Size([2, 224])
    """
    layers = input_norm, filters, convs, norms, pools
    return _map_of(x, layers, eps, slope, 0.0).transpose(1, 2).flatten(1)


def sinc_map(
    x, input_norm, filters, norm, pool, eps, slope, floor=0.0, keep=None
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
        ``[batch, time, channels]``.
    """
    layers = input_norm, filters, [], [norm], [pool]
    x = _map_of(x, layers, eps, slope, floor)
    return x if keep is None else torch.where(keep.unsqueeze(1), x, 0.0)


def _map_of(x, layers, eps, slope, floor):
    """What comes out of the last layer, ``[batch, time, channels]``."""
    input_norm, filters, convs, norms, pools = layers
    if input_norm is None:
        fixed = filters.new_ones(2, x.shape[1])
        fixed[1] = 0
        input_norm = fixed.unbind()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        settings = filters.shape[1], tuple(pools), eps, slope, dtype, floor
        parameters = _parameters(input_norm, filters, convs, norms, pools[0])
        return _CNN.apply(settings, x, *parameters)


def frozen_cnn(
    input_norm, filters, convs, norms, pools, eps, slope, dtype, floor=0.0
):
    """:func:`cnn` with parameters that are prepared once, for evaluation.

    Arguments
    ---------
    input_norm, filters, convs, norms, pools, eps, slope, floor
        See :func:`cnn` and :func:`sinc_map`.
    dtype : torch.dtype
        Of the products.

    Returns
    -------
    callable
        ``[batch, time]`` to ``[batch, time, channels]``, without gradient:
        the map that :func:`cnn` flattens. Later changes of the parameters do
        not reach it.
    """
    settings = filters.shape[1], tuple(pools), eps, slope, dtype, floor
    with torch.no_grad():
        parameters = _parameters(input_norm, filters, convs, norms, pools[0])
        parameters = [each.clone() for each in parameters]
    network = Network(settings, parameters)

    @torch.no_grad()
    def run(x):
        """Windows to features, a few at a time."""
        with torch.autocast("cpu", enabled=False):
            slices = x.split(_slice_size(settings, x, parameters))
            return torch.cat([network.forward(each) for each in slices])

    return run


def _parameters(input_norm, filters, convs, norms, pool):
    """In the order and the layout that :class:`Network` works with."""
    if input_norm is None:  # one for all samples
        input_norm = filters.new_ones(1), filters.new_zeros(1)
    parameters = [each.unsqueeze(1) for each in input_norm]
    layers = fold_filters(filters, pool), *convs
    for layer, norm in zip(layers, norms):
        # The maps are time-major, the parameters channel-major.
        parameters += [*layer, *(each.t().contiguous() for each in norm)]
    return parameters


def _slice_size(settings, x, parameters):
    """Windows that go through the network together."""
    largest = (x.shape[1] - settings[0] + 1) * parameters[5].shape[1]
    return max(1, _SLICE // largest)


class _CNN(torch.autograd.Function):
    """A batch, slice by slice; see :func:`cnn`."""

    @staticmethod
    def forward(ctx, settings, x, *parameters):
        """See torch.autograd.Function."""
        network = Network(settings, parameters)
        ctx.settings, ctx.count = settings, len(parameters)
        ctx.size = _slice_size(settings, x, parameters)
        kept = [] if any(ctx.needs_input_grad) else None
        parts = [network.forward(each, kept) for each in x.split(ctx.size)]
        ctx.save_for_backward(*parameters, *(kept or []))
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        parameters = ctx.saved_tensors[: ctx.count]
        kept = iter(ctx.saved_tensors[ctx.count :])
        totals = [torch.zeros_like(each) for each in parameters]
        with torch.autocast("cpu", enabled=False):
            network = Network(ctx.settings, parameters)
            whole = any(ctx.needs_input_grad[1:4])
            parts = [
                network.backward(each, kept, totals, whole)
                for each in grad.split(ctx.size)
            ]
        if not whole:
            return None, None, None, None, *totals[2:]
        return None, torch.cat(parts), *totals
