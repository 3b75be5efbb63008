"""A training step of SincNet, written for CPUs.

:func:`cnn` is the same function as :meth:`amsincnet_sb.lobes.sincnet.SincNet.cnn`,
several times as fast, with a backward pass written by hand. Four things make
it so:

1. *Half the arithmetic.* The sinc filters are symmetric and pooling looks at
   ``p`` neighbouring outputs. The first and last of those, ``y`` and ``y'``,
   are the sum and the difference of a symmetric filter's output ``e`` and an
   antisymmetric one's ``o``, each of which needs one product for two samples
   (the fold); and since ``max(|e + o|, |e - o|) = |e| + |o|``, the maximum
   needs neither ``y`` nor ``y'``. What remains is a dense product at the
   pooled rate: no padding, no wasted output, and the gradient after pooling
   goes back through ``e`` and ``o`` by their signs.
2. *Slices.* A few windows at a time go through all layers, so that the maps
   between them stay in the cache and the allocator reuses their memory.
3. *Time-major maps*, ``[batch, time, channels]``: oneDNN's fastest layout,
   in which pooling and the statistics over time work on whole vectors.
4. *oneDNN for every product*, also for those that torch leaves to the BLAS
   library in float32: on some processors that one is half as fast.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from amsincnet_sb.nnet.normalization import TimeLayerNorm

__all__ = [
    "RMSprop",
    "cnn",
    "conv",
    "frozen_cnn",
    "frozen_conv",
    "frozen_linear",
    "linear",
    "sinc_map",
]

# Numbers in the sinc layer's full map for one slice: 16 windows of the released
# network. From 4 to 24 are about equally fast with 32 MB of cache; from 16 on,
# torch gives the sinc layer to oneDNN with a single thread, too.
_SLICE = 16 * 80 * 2950

# Rows of a linear layer's weight, and numbers of a parameter, that are handled
# together: few enough for the cache, enough to be worth a call.
_ROWS = 512
_PART = 2**18

# Without AVX-512 oneDNN takes twice as long for the gradient of a convolution's
# weight as a product of copied windows, so many rows at a time.
_WEIGHTS_BY_PRODUCT = torch.backends.cpu.get_cpu_capability() == "AVX2"
_PRODUCT_ROWS = 2048

# What torch.compile uses for its linear layers on CPUs.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)

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
    network = _Network(settings, parameters)

    @torch.no_grad()
    def run(x):
        """Windows to features, a few at a time."""
        with torch.autocast("cpu", enabled=False):
            slices = x.split(_slice_size(settings, x, parameters))
            return torch.cat([network.forward(each) for each in slices])

    return run


def _parameters(input_norm, filters, convs, norms, pool):
    """In the order and the layout that :class:`_Network` works with."""
    if input_norm is None:  # one for all samples
        input_norm = filters.new_ones(1), filters.new_zeros(1)
    parameters = [each.unsqueeze(1) for each in input_norm]
    layers = _fold_filters(filters, pool), *convs
    for layer, norm in zip(layers, norms):
        # The maps are time-major, the parameters channel-major.
        parameters += [*layer, *(each.t().contiguous() for each in norm)]
    return parameters


def _slice_size(settings, x, parameters):
    """Windows that go through the network together."""
    largest = (x.shape[1] - settings[0] + 1) * parameters[5].shape[1]
    return max(1, _SLICE // largest)


def _fold_filters(filters, pool):
    """Filters for the sums and for the differences of mirrored samples.

    Arguments
    ---------
    filters : torch.Tensor
        ``[channels, taps]``, symmetric.
    pool : int
        Neighbouring outputs that are pooled.

    Returns
    -------
    even : torch.Tensor
        ``[(pairs + pool % 2) * channels, columns]`` with ``pairs = pool //
        2``: half the sum of the filters of a pool's first and last output,
        of the second and last but one, …; then the middle output's, if any.
    odd : torch.Tensor
        ``[max(pairs, 1) * channels, columns]``: half the differences; without
        pairs, zeros.
    """
    mirrored = filters.flip(1)
    if (filters - mirrored).abs().max() > 1e-5 * filters.abs().max():
        raise ValueError("cnn: the filters must be symmetric in time.")
    filters = (filters + mirrored) / 2
    span, half, columns = _fold_sizes(filters.shape[1], pool)
    weight = filters.new_ones(columns)
    weight[half:] = 0
    if span % 2:
        # The middle sample is its own mirror: its sum counts it twice.
        weight[half - 1] = 0.5
    outputs = [
        F.pad(filters, (at, pool - 1 - at))[:, :columns] * weight
        for at in range(pool)
    ]
    pairs = list(zip(outputs, reversed(outputs)))[: pool // 2]
    even = [(a + b) / 2 for a, b in pairs]
    odd = [(a - b) / 2 for a, b in pairs]
    if pool % 2:
        even.append(outputs[pool // 2])
    return torch.cat(even), torch.cat(odd or [torch.zeros_like(even[0])])


def _fold_sizes(taps, pool):
    """Samples that a pool sees; half of them; that rounded up for speed.

    A column behind ``half`` holds samples like any other, with weight 0.
    """
    span = taps + pool - 1
    half = (span + 1) // 2
    columns = -(-half // 16) * 16
    return span, half, columns if columns <= span - pool else half


def _fold(x, taps, pool):
    """Sums and differences of mirrored samples, for every pool.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time]``.

    Returns
    -------
    even, odd : torch.Tensor, torch.Tensor
        ``[batch, pools, columns]``: ``x[pool·q + i] ± x[pool·q + span−1−i]``.
    """
    span, _, columns = _fold_sizes(taps, pool)
    count = (x.shape[1] - taps + 1) // pool
    seen = pool * (count - 1) + span
    ahead = x[:, :seen].unfold(1, columns, pool)[:, :count]
    back = x[:, :seen].flip(1).unfold(1, columns, pool)[:, :count].flip(1)
    return ahead + back, torch.sub(ahead, back, out=back)


def _unfold_gradient(even, odd, time, taps, pool, buffers):
    """The transpose of :func:`_fold`.

    Arguments
    ---------
    even, odd : torch.Tensor
        Gradients, ``[columns, batch, pools]``.
    time : int
        Samples of a window.
    buffers : dict
        Keeps, by batch size, the memory of the last call for the next.

    Returns
    -------
    torch.Tensor
        ``[batch, time]``.
    """
    span = taps + pool - 1
    columns, batch, count = even.shape
    # Column i = pool·k + r reaches sample pool·(q + k) + r from the front and
    # span−1−i + pool·q from the back. So for each r, a sum over k of rows that
    # are shifted by k: a sum over a skewed view of rows with zeros between.
    shifts = -(-columns // pool)
    skew = shifts - 1
    row = skew + count
    if batch not in buffers:
        length = shifts * pool * batch * row + skew
        buffers[batch] = even.new_zeros(2, length)
    rows = buffers[batch]
    view = rows[:, : len(rows[0]) - skew].view(2, -1, batch, row)
    view = view[:, :columns, :, skew:]
    torch.add(even, odd, out=view[0])
    torch.sub(even, odd, out=view[1])
    size = shifts, pool, batch, row
    across = pool * batch * row
    rest = batch * row, row, 1
    front = rows.as_strided(size, (across - 1, *rest), skew).sum(0)
    start = rows.stride(0)
    back = rows.as_strided(size, (across + 1, *rest), start).sum(0)

    grad = even.new_zeros(pool, batch, count + (span - 1) // pool)
    grad[:, :, :row] = front
    for r in range(pool):
        blocks, phase = divmod(span - 1 - r, pool)
        # Negative only where the row is padding, all zeros.
        shift = blocks - skew
        part = back[r, :, max(0, -shift) :]
        grad[phase, :, max(0, shift) : blocks + count] += part
    grad = grad.permute(1, 2, 0).flatten(1)
    return F.pad(grad, (0, time - grad.shape[1]))


def _product(a, b, bias=None):
    """``a @ b.T + bias`` for ``[m, k]`` and ``[n, k]``."""
    if a.dtype == torch.float32 and _HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def _image(x):
    """``[batch, time, channels]`` as an image of one line, channels last."""
    return x.transpose(1, 2).unsqueeze(2)


def _map(image):
    """The inverse of :func:`_image`."""
    return image.squeeze(2).transpose(1, 2)


def _conv_backward(grad, x, weight, bias, wanted, stride=1):
    """Gradients of ``F.conv2d(x, weight, bias)``, those ``wanted``."""
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


def _maximum(x, keep):
    """Maximum over axis 2 and, if it is to be kept, which one was the first.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time, candidates, channels]``.
    keep : bool
        Whether to return the second.

    Returns
    -------
    best : torch.Tensor
        ``[batch, time, channels]``.
    first : torch.Tensor or None
        Of the shape of ``x``, int8, one or zero.
    """
    best, *others = x.unbind(2)
    first = []
    for other in others:
        if keep:
            better = other > best
            for each in first:
                each &= ~better
            first.append(better)
        best = torch.maximum(best, other)
    if not keep:
        return best, None
    none = torch.ones_like(best, dtype=torch.bool)
    for each in first:
        none &= ~each
    return best, torch.stack([none, *first], 2).view(torch.int8)


class _Network:
    """The layers for one slice of windows, forward and backward.

    Maps are ``[batch, time, channels]`` throughout.

    Arguments
    ---------
    settings : tuple
        Taps of the sinc filters, pools, eps, slope, dtype of the products,
        floor of the sinc layer's logarithm (0 for none).
    parameters : sequence of torch.Tensor
        Gain and bias of the input; even and odd filters; gain and bias of
        the first map; then weight, bias, gain and bias for each convolution.
    """

    def __init__(self, settings, parameters):
        self.taps, self.pools, self.eps, self.slope, *rest = settings
        self.dtype, self.floor = rest
        self.buffers = {}
        gain, bias, even, odd, *rest = parameters
        self.filters = even.to(self.dtype), odd.to(self.dtype)
        self.norms = [(gain, bias), rest[:2]]
        self.convs = []
        for weight, bias, *norm in zip(*[iter(rest[2:])] * 4):
            weight = _weight_image(weight.to(self.dtype))
            self.convs.append((weight, bias.to(self.dtype)))
            self.norms.append(norm)

    def forward(self, x, kept=None):
        """Windows ``[batch, time]`` to ``[batch, time, channels]``.

        ``kept``, if a list, takes the tensors that :meth:`backward` needs.
        """
        choice = ()
        x = x.unsqueeze(2)
        for layer, norm in enumerate(self.norms):
            if layer == 1:
                x, choice = self._sinc_pool(x, kept is not None)
            elif layer > 1:
                x, choice = self._conv_pool(x, layer, kept is not None)
            x, std = self._standardise(x)
            if kept is not None:
                kept += x, std, *choice
            x = self._affine(x, layer)
        return x

    def backward(self, grad, kept, totals, whole):
        """Gradient of the windows, ``[batch, time]``.

        Arguments
        ---------
        grad : torch.Tensor
            ``[batch, time, channels]``.
        kept : iterator of torch.Tensor
            What :meth:`forward` kept, in its order.
        totals : list of torch.Tensor
            Gradients of the parameters, added to in place.
        whole : bool
            False leaves out what lies before the filters; the gradient is
            None then.
        """
        # Behind the map and its deviation: signs of two and, of a logarithm,
        # its argument; then choices.
        counts = [0, 2 + (self.floor > 0)] + [1] * len(self.convs)
        kept = [[next(kept) for _ in range(2 + n)] for n in counts]
        last = len(self.norms) - 1
        out = self._affine(kept[last][0], last)
        for layer in range(last, -1, -1):
            normal, std, *choice = kept[layer]
            if not layer and not whole:
                return None
            if layer:
                grad = torch.ops.aten.leaky_relu_backward(
                    grad.contiguous(), out, self.slope, True
                )
            at = 4 * layer
            grad = self._norm_backward(
                grad, normal, std, self.norms[layer][0], totals[at : at + 2]
            )
            if layer:
                out = self._affine(kept[layer - 1][0], layer - 1)
                below = (
                    self._conv_pool_backward
                    if layer > 1
                    else self._sinc_pool_backward
                )
                grad = below(
                    grad, out, choice, layer, totals[at - 2 : at], whole
                )
        return grad.squeeze(2)

    def _affine(self, normal, layer):
        gain, bias = self.norms[layer]
        x = (normal * gain).add_(bias)
        return F.leaky_relu_(x, self.slope) if layer else x

    def _standardise(self, x):
        x = x - x.mean(1, keepdim=True)
        variance = x.square().sum(1, keepdim=True) / (x.shape[1] - 1)
        std = (variance + TimeLayerNorm.tiny).sqrt()
        return x.div_(std + self.eps), std

    def _norm_backward(self, grad, normal, std, gain, totals):
        product = grad * normal
        totals[0] += product.sum(0)
        totals[1] += grad.sum(0)
        pull = product.mul_(gain).sum(1, keepdim=True)
        pull *= (std + self.eps) / std / (grad.shape[1] - 1)
        grad = grad * gain
        grad -= grad.mean(1, keepdim=True)
        return grad.sub_(normal * pull).div_(std + self.eps)

    def _sinc_pool(self, x, keep):
        even, odd = (
            _map(F.conv2d(_image(rows), filters[:, :, None, None]))
            .to(x.dtype)
            .unflatten(2, (-1, self.norms[1][0].shape[1]))
            for rows, filters in zip(self._folded(x), self.filters)
        )
        signs = [each.sign().to(torch.int8) for each in (even, odd) if keep]
        even.abs_()
        even[:, :, : odd.shape[2]] += odd.abs_()
        best, first = _maximum(even, keep)
        for sign in signs:
            sign *= first[:, :, : sign.shape[2]]
        if not self.floor:
            return best, signs
        best += self.floor
        return best.log(), [*signs, best]

    def _sinc_pool_backward(self, grad, x, signs, layer, totals, whole):
        if self.floor:
            *signs, argument = signs
            grad = grad / argument
        down = []
        for rows, filters, sign, total in zip(
            self._folded(x), self.filters, signs, totals
        ):
            each = sign.to(grad.dtype).mul_(grad.unsqueeze(2))
            each = each.flatten(2).to(self.dtype)
            total += self._filters_gradient(each, rows, filters)
            if not whole:
                continue
            back = _product(filters.t(), each.flatten(0, 1))
            down.append(back.unflatten(1, each.shape[:2]))
        if not whole:
            return None
        x_grad = _unfold_gradient(
            *down, x.shape[1], self.taps, self.pools[0], self.buffers
        )
        return x_grad.to(x.dtype).unsqueeze(2)

    def _filters_gradient(self, grad, rows, filters):
        if self.dtype == torch.bfloat16:
            # torch has oneDNN's product here, faster than the convolution.
            return grad.flatten(0, 1).t() @ rows.flatten(0, 1)
        grads = _conv_backward(
            _image(grad),
            _image(rows),
            filters[:, :, None, None],
            None,
            [False, True, False],
        )
        return grads[1][:, :, 0, 0]

    def _folded(self, x):
        x = x.squeeze(2).to(self.dtype)
        return _fold(x, self.taps, self.pools[0])

    def _conv_pool(self, x, layer, keep):
        pool = self.pools[layer - 1]
        y = F.conv2d(_image(x.to(self.dtype)), *self.convs[layer - 2])
        y = _map(y).to(x.dtype)
        y = y[:, : y.shape[1] // pool * pool].unflatten(1, (-1, pool))
        best, first = _maximum(y, keep)
        return best, (first,)

    def _conv_pool_backward(self, grad, x, choice, layer, totals, whole):
        (first,) = choice
        weight, bias = self.convs[layer - 2]
        batch, time, channels = x.shape
        time += 1 - weight.shape[3]
        down = grad.new_zeros(batch, time, weight.shape[0])
        pooled = down[:, : first.shape[1] * first.shape[2]]
        pooled = pooled.view(first.shape).copy_(first)
        pooled *= grad.unsqueeze(2)
        down, x = (_image(each.to(self.dtype)) for each in (down, x))
        down, *grads = _conv_backward(down, x, weight, bias, [True] * 3)
        totals[0] += grads[0].squeeze(2)
        totals[1] += grads[1]
        return _map(down).to(grad.dtype)


class _CNN(torch.autograd.Function):
    """A batch, slice by slice; see :func:`cnn`."""

    @staticmethod
    def forward(ctx, settings, x, *parameters):
        """See torch.autograd.Function."""
        network = _Network(settings, parameters)
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
            network = _Network(ctx.settings, parameters)
            whole = any(ctx.needs_input_grad[1:4])
            parts = [
                network.backward(each, kept, totals, whole)
                for each in grad.split(ctx.size)
            ]
        if not whole:
            return None, None, None, None, *totals[2:]
        return None, torch.cat(parts), *totals


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
    return _convolve(x, _weight_image(weight), stride, bias)


def _convolve(x, image, stride, bias=None):
    return _map(F.conv2d(_image(x), image, bias, stride=(1, stride)))


def _weight_image(weight):
    """``[out, in, taps]`` as the weight of a convolution of images."""
    weight = weight.unsqueeze(2)
    return weight.contiguous(memory_format=torch.channels_last)


class _Conv(torch.autograd.Function):
    """See :func:`conv`."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        """See torch.autograd.Function."""
        ctx.stride = stride
        ctx.save_for_backward(x, weight)
        return _convolve(x, _weight_image(weight), stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images = _image(grad), _image(x), _weight_image(weight)
            wanted = [True, False, False]
            x_grad = _conv_backward(*images, None, wanted, ctx.stride)[0]
            x_grad = _map(x_grad)
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
        See :func:`amsincnet_sb.nnet.fast_cuda.frozen.frozen_conv`.

    Returns
    -------
    callable
        ``[batch, time, in]`` to ``[batch, (time - taps) // stride + 1, out]``.
    """
    image = _weight_image(weight.detach().to(dtype))
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


def frozen_linear(weight, bias, dtype):
    """:func:`linear` with fixed parameters.

    Arguments
    ---------
    weight, bias, dtype
        See :func:`amsincnet_sb.nnet.fast_cuda.frozen.frozen_linear`.

    Returns
    -------
    callable
        ``[batch, in]`` to ``[batch, out]``, of that type.
    """
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)

    @torch.no_grad()
    def run(x):
        """Vectors to vectors."""
        return linear(x.to(dtype), weight, bias)

    return run


def linear(x, weight, bias):
    """:func:`torch.nn.functional.linear`, in oneDNN also in float32.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, in]``.
    weight : torch.Tensor
        ``[out, in]``.
    bias : torch.Tensor
        ``[out]``.

    Returns
    -------
    torch.Tensor
        ``[batch, out]``.

    Example
    -------
    >>> x, weight, bias = torch.randn(4, 8), torch.randn(2, 8), torch.randn(2)
    >>> torch.allclose(
    ...     linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-5
    ... )
    True
    """
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return _Linear.apply(x, weight, bias, dtype)


class _Linear(torch.autograd.Function):
    """See :func:`linear`.

    A weight that must be rounded is so part by part, and its gradient made
    so: the processor's caches hold a part, and a new block of memory for the
    whole costs as much as the product.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        """See torch.autograd.Function."""
        ctx.rows = len(weight) if weight.dtype == dtype else _ROWS
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        parts = [
            _product(x, part.to(dtype), offset.to(dtype))
            for part, offset in zip(
                weight.split(ctx.rows), bias.split(ctx.rows)
            )
        ]
        return torch.cat(parts, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        x, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            bias_grad = grad.to(weight.dtype).sum(0)
            if ctx.rows == len(weight):
                weight_grad = _product(grad.t(), x.t())
                return _product(grad, weight.t()), weight_grad, bias_grad, None
            weight_grad = torch.empty_like(weight)
            x_grad = weight.new_zeros(x.shape)
            for part, rows, out in zip(
                grad.split(ctx.rows, 1),
                weight.split(ctx.rows),
                weight_grad.split(ctx.rows),
            ):
                out.copy_(_product(part.t(), x.t()))
                x_grad += _product(part, rows.to(x.dtype).t())
            return x_grad.to(x.dtype), weight_grad, bias_grad, None


class RMSprop(torch.optim.RMSprop):
    """:class:`torch.optim.RMSprop` that works in the cache, part by part.

    The same numbers bit for bit and the same ``state_dict``, without
    temporaries of a weight's size, which cost more than the arithmetic. The
    plain form of the algorithm alone: no momentum, not centred.

    Arguments
    ---------
    params : iterable
        As for every optimizer.
    lr, alpha, eps, weight_decay : float
        See :class:`torch.optim.RMSprop`.

    Example
    -------
    >>> weight = torch.ones(3, requires_grad=True)
    >>> optimizer = RMSprop([weight], lr=0.1, alpha=0.95, eps=1e-8)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.detach()
    tensor([0.5528, 0.5528, 0.5528])
    """

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0):
        super().__init__(params, lr, alpha, eps, weight_decay)

    @torch.no_grad()
    def step(self, closure=None):
        """Change the parameters.

        Arguments
        ---------
        closure : callable, optional
            Computes the loss again.

        Returns
        -------
        torch.Tensor or None
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight, group):
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["square_avg"] = torch.zeros_like(weight)
        state["step"] += 1
        alpha, decay = group["alpha"], group["weight_decay"]
        for part, grad, average in zip(
            *(
                each.view(-1).split(_PART)
                for each in (
                    weight,
                    weight.grad.contiguous(),
                    state["square_avg"],
                )
            )
        ):
            if decay:
                grad = grad.add(part, alpha=decay)
            average.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
            root = average.sqrt().add_(group["eps"])
            part.addcdiv_(grad, root, value=-group["lr"])
