"""Waveforms to the feature map behind SincNet's convolutional part.

See :class:`amsincnet_sb.kernels.Kernels` for the arguments.
"""

import torch
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.folding import fold_filters
from amsincnet_sb.kernels.cpu.shared_sinc import SharedSinc
from amsincnet_sb.kernels.cpu.slices import Network

__all__ = ["cnn", "frozen_cnn", "sinc_map"]

# Values of the sinc layer's unpooled output for one slice: 16 chunks in the
# released network. From 4 to 24 are about equally fast with 32 MB of cache;
# from 16 on, torch gives the sinc layer to oneDNN with a single thread, too.
_SLICE = 16 * 80 * 2950

# glibc gives memory back to the system, to ask for it again page by page,
# until a block this large has been freed once; then it keeps the slices'.
torch.empty(31 * 2**20, dtype=torch.uint8)


def cnn(x, input_norm, filters, convs, norms, pools, eps, slope):
    """See :meth:`amsincnet_sb.kernels.Kernels.cnn`.

    Under autocast the matmuls are computed in its precision and everything
    else in float32.
    """
    layers = input_norm, filters, convs, norms, pools
    return _last_map(x, layers, eps, slope, 0.0).transpose(1, 2).flatten(1)


def sinc_map(
    x, input_norm, filters, norm, pool, eps, slope, floor=0.0, keep=None
):
    """See :meth:`amsincnet_sb.kernels.Kernels.sinc_map`.

    Under autocast the result is in its precision, as the next matmul needs it.
    """
    layers = input_norm, filters, [], [norm or ()], [pool]
    rounded = norm is not None
    return _last_map(x, layers, eps, slope, floor, keep, rounded)


def frozen_cnn(
    input_norm, filters, convs, norms, pools, eps, slope, dtype, floor=0.0
):
    """See :meth:`amsincnet_sb.kernels.Kernels.frozen_cnn`.

    Windows that are an overlapping view of a recording are filtered together
    where the input has no gain of its own.
    """
    settings = filters.shape[1], tuple(pools), eps, slope, dtype, floor
    with torch.no_grad():
        parameters = _parameters(input_norm, filters, convs, norms, pools[0])
        parameters = [each.clone() for each in parameters]
        response = filters.sum(1)
    network = Network(settings, parameters, filters.dtype)
    shared = None
    if input_norm is None and not convs:
        shared = SharedSinc(
            parameters[2:4],
            response,
            parameters[4:6],
            filters.shape[1],
            pools[0],
            eps,
            slope,
            dtype,
            floor,
        )

    @torch.no_grad()
    def run(x):
        """``[batch, time]`` to ``[batch, time, channels]``, in slices."""
        with torch.autocast("cpu", enabled=False):
            if shared is not None and shared.turns(x):
                return shared(x)
            slices = x.split(_slice_size(network, x))
            return torch.cat([network.forward(each) for each in slices])

    return run


def _last_map(x, layers, eps, slope, floor, keep=None, rounded=False):
    """The last layer's feature map, ``[batch, time, channels]``.

    With zeros in the channels that are not to ``keep``, and, if ``rounded``, in
    the precision of the matmuls.
    """
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
        if keep is not None:
            keep = keep.unsqueeze(1)
        # Within the function gradients are always off.
        form = dtype if rounded else x.dtype, torch.is_grad_enabled()
        return _CNN.apply(settings, keep, form, x, *parameters)


def _parameters(input_norm, filters, convs, norms, pool):
    """In the order and the layout that :class:`Network` works with."""
    if input_norm is None:  # one for all samples
        input_norm = filters.new_ones(1), filters.new_zeros(1)
    parameters = [each.unsqueeze(1) for each in input_norm]
    layers = fold_filters(filters, pool), *convs
    for layer, norm in zip(layers, norms):
        # Feature maps are time-major, the parameters channel-major.
        parameters += [*layer, *(each.t().contiguous() for each in norm)]
    return parameters


def _slice_size(network, x):
    """Waveforms that go through the network together."""
    largest = (x.shape[1] - network.taps + 1) * network.channels
    return max(1, _SLICE // largest)


class _CNN(torch.autograd.Function):
    """:class:`Network` over a batch, slice by slice."""

    @staticmethod
    def forward(ctx, settings, keep, form, x, *parameters):
        """See torch.autograd.Function."""
        dtype, grad = form
        network = Network(settings, parameters)
        ctx.settings, ctx.keep, ctx.count = settings, keep, len(parameters)
        ctx.size = _slice_size(network, x)
        kept = [] if grad and any(ctx.needs_input_grad) else None
        out = None
        for at in range(0, max(1, len(x)), ctx.size):
            part = network.forward(x[at : at + ctx.size], kept)
            if keep is not None:
                part *= keep[at : at + ctx.size]
            if out is None:
                out = part.new_empty(len(x), *part.shape[1:], dtype=dtype)
            out[at : at + ctx.size] = part
        ctx.save_for_backward(*parameters, *(kept or []))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        parameters = ctx.saved_tensors[: ctx.count]
        kept = iter(ctx.saved_tensors[ctx.count :])
        totals = [torch.zeros_like(each) for each in parameters]
        parts = []
        with torch.autocast("cpu", enabled=False):
            network = Network(ctx.settings, parameters)
            whole = any(ctx.needs_input_grad[3:6])
            for at in range(0, len(grad), ctx.size):
                part = grad[at : at + ctx.size].to(parameters[0].dtype)
                if ctx.keep is not None:
                    part = part * ctx.keep[at : at + ctx.size]
                parts.append(network.backward(part, kept, totals, whole))
        if not whole:
            return *[None] * 6, *totals[2:]
        return None, None, None, torch.cat(parts), *totals
