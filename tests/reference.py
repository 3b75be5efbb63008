"""The layers, networks and losses of the papers, written plainly.

What tests compare with: one line for one formula, in any precision, with
autograd's gradients. It shares no code with the package: networks are only
asked for their parameters and arguments.
"""

import math

import torch
import torch.nn.functional as F


def time_norm(x, gain=1.0, bias=0.0, eps=1e-6):
    """Normalisation over the last axis, with the unbiased deviation."""
    std = (x.var(-1, keepdim=True) + 1e-20).sqrt()
    return gain * (x - x.mean(-1, keepdim=True)) / (std + eps) + bias


def batch_norm(norm, x):
    """Batch normalisation of ``[batch, features]``."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = x.mean(0), x.var(0, unbiased=False)
    return norm.weight * (x - mean) / (variance + 1e-5).sqrt() + norm.bias


def sinc_filters(net):
    """Differences of ideal low-passes with a peak of 1, in a window."""
    sinc, rate = net.sinc, net.arguments["sample_rate"]
    low = sinc.low.abs() + net.arguments["min_low_hz"] / rate
    high = low + sinc.band.abs() + net.arguments["min_band_hz"] / rate
    taps = sinc.kernel_size
    t = torch.arange(1, taps // 2 + 1, dtype=low.dtype)
    low, high = low[:, None], high[:, None]
    right = torch.sin(2 * math.pi * high * t) / (math.pi * t)
    right = right - torch.sin(2 * math.pi * low * t) / (math.pi * t)
    ideal = torch.cat([right.flip(1), 2 * (high - low), right], 1)
    phase = torch.linspace(0, taps, taps, dtype=torch.float64)
    hamming = 0.54 - 0.46 * torch.cos(2 * math.pi * phase / taps)
    return ideal / ideal.amax(1, keepdim=True) * hamming.to(ideal.dtype)


def conv(x, weight, stride=1):
    """A convolution of ``[batch, time, channels]``."""
    return F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)


def cnn(x, input_norm, filters, convs, norms, pools, eps=1e-6, slope=0.2):
    """SincNet's convolutional part, ``[batch, channels * time]``."""
    x = time_norm(x, *input_norm, eps)
    x = F.conv1d(x[:, None], filters[:, None]).abs()
    for layer, (pool, (gain, bias)) in enumerate(zip(pools, norms)):
        if layer:
            x = F.conv1d(x, *convs[layer - 1])
        x = time_norm(F.max_pool1d(x, pool), gain, bias, eps)
        x = F.leaky_relu(x, slope)
    return x.flatten(1)


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
    """SincTDNN's sinc layer, ``[batch, time, channels]``."""
    x = time_norm(x, *(input_norm or (1.0, 0.0)), eps)
    x = F.conv1d(x[:, None], filters[:, None]).abs()
    x = F.max_pool1d(x, pool)
    if floor:
        x = (x + floor).log()
    if norm is None:
        return x.transpose(1, 2)
    x = F.leaky_relu(time_norm(x, *norm, eps), slope).transpose(1, 2)
    return x if keep is None else x * keep.unsqueeze(1)


def sincnet(net, x):
    """Convolutional part and embedding of windows, without dropout."""
    given = net.arguments
    features = cnn(
        x,
        (net.input_norm.weight, net.input_norm.bias),
        sinc_filters(net),
        [(layer.weight, layer.bias) for layer in net.convs],
        [(norm.weight, norm.bias) for norm in net.cnn_norms],
        given["cnn_pools"],
        slope=given["negative_slope"],
    )
    x = time_norm(features, net.flat_norm.weight, net.flat_norm.bias)
    return features, _connect(net, x, not given["linear_embedding"])


def sinc_tdnn(net, x):
    """Embedding of windows, without dropout and masks."""
    given = net.arguments
    pool, slope = given["sinc_pool"], given["negative_slope"]
    if given["sinc_norm"] == "batch":
        norm = None
    else:
        norm = net.sinc_norm.weight, net.sinc_norm.bias
    x = sinc_map(
        *(x, None, sinc_filters(net), norm, pool),
        slope=slope,
        floor=given["log_floor"],
    )
    if norm is None:
        x = batch_norm(net.sinc_norm, x.flatten(0, 1)).view_as(x)
        x = F.leaky_relu(x, slope)
    for layer, norm, stride in zip(
        net.convs, net.conv_norms, given["tdnn_strides"]
    ):
        out, channels, taps = layer.weight.shape
        y = conv(x, layer.weight, stride)
        y = batch_norm(norm, y.flatten(0, 1)).view_as(y)
        y = F.leaky_relu(y, slope)
        if out == channels and stride == 1 and taps % 2:
            y = y + x[:, taps // 2 : taps // 2 + y.shape[1]]
        x = y
    std = (x.var(1, unbiased=False) + 1e-6).sqrt()
    x = batch_norm(net.pool_norm, torch.cat([x.mean(1), std], 1))
    return _connect(net, x, False)


def _connect(net, x, last_activation):
    layers = list(zip(net.linears, net.fc_norms))
    for i, (linear, norm) in enumerate(layers):
        x = batch_norm(norm, x @ linear.weight.T + linear.bias)
        if i < len(layers) - 1 or last_activation:
            x = F.leaky_relu(x, net.arguments["negative_slope"])
    return x


def am_softmax(cosines, labels, margin, scale=30.0, eps=0.0):
    """The additive-margin softmax of the paper, on cosines."""
    total = 0.0
    for row, y in zip(cosines, labels.tolist()):
        own = torch.exp(scale * (row[y] - margin))
        others = torch.exp(scale * torch.cat([row[:y], row[y + 1 :]])).sum()
        total = total - torch.log(own / (own + others + eps))
    return total / len(cosines)


def released_loss(log_posteriors, labels, margin, scale=30.0):
    """The loss of the authors' code; each class over the batch has norm 1."""
    p = log_posteriors
    q = p / ((p**2).sum(0, keepdim=True).sqrt() + 1e-12)
    return am_softmax(q, labels, margin, scale, 1e-12)


def arguments_of(shape):
    """Those of SincNet: rate, window, channels, taps, pools, layer widths."""
    names = "sample_rate window cnn_channels cnn_kernel_sizes cnn_pools"
    return dict(zip(f"{names} fc_neurons".split(), shape))


def as_if_trained(net, seed=0):
    """Give a network parameters and statistics that training might."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, module in net.named_modules():
            weight = getattr(module, "weight", None)
            if name == "sinc":
                for cutoff in module.parameters():  # the signs do not matter
                    cutoff *= 0.8 + 0.4 * torch.rand_like(cutoff)
                    cutoff[torch.rand_like(cutoff) < 0.3] *= -1
            elif isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
                weight.normal_(std=weight[0].numel() ** -0.5)
                if module.bias is not None:
                    module.bias.normal_(std=0.1)
            elif weight is not None:
                weight.normal_(1.0, 0.2)
                module.bias.normal_(std=0.2)
            if hasattr(module, "running_var"):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
    return net


# Kernels against formulas ----------------------------------------------------


def conv_problem(shape, dtype=torch.float64, device="cpu"):
    """Random arguments of a conv and the list of its leaves."""
    batch, time, c_in, c_out, taps, stride = shape
    torch.manual_seed(0)
    x = torch.randn(batch, time, c_in, dtype=torch.float64)
    weight = torch.randn(c_out, c_in, taps, dtype=torch.float64)
    weight *= (c_in * taps) ** -0.5
    leaves = [t.to(device, dtype).requires_grad_() for t in (x, weight)]
    return (*leaves, stride), leaves


def problem(shape, batch, dtype=torch.float64, device="cpu"):
    """The same of a cnn; shape: samples, channels, taps, pools."""
    samples, channels, taps, pools = shape
    leaves = []

    def leaf(*size, scale=1.0, offset=0.0):
        value = torch.randn(*size, dtype=torch.float64) * scale + offset
        leaves.append(value.to(device, dtype).requires_grad_())
        return leaves[-1]

    def affine(*size):
        return leaf(*size, scale=0.1, offset=1.0), leaf(*size, scale=0.1)

    torch.manual_seed(0)
    x = leaf(batch, samples)
    input_norm = affine(samples)
    filters = leaf(channels[0], taps[0], scale=taps[0] ** -0.5)
    convs = [
        (leaf(out, c, k, scale=(c * k) ** -0.5), leaf(out, scale=0.1))
        for c, out, k in zip(channels, channels[1:], taps[1:])
    ]
    norms, time = [], samples
    for c, k, pool in zip(channels, taps, pools):
        time = (time - k + 1) // pool
        norms.append(affine(c, time))
    return (x, input_norm, filters, convs, norms, pools, 1e-6, 0.2), leaves


def relative(a, b, scale=1e-12):
    """Distance from ``b`` relative to its norm, or to a larger scale."""
    return ((a.double() - b).norm() / b.norm().clamp_min(scale)).item()


def errors(function, plain, given, exact=None):
    """Relative errors of the value and of every gradient."""
    arguments, leaves = given
    exact, exact_leaves = exact or given
    y, want = function(*arguments), plain(*exact)
    weight = torch.randn(
        want.shape, dtype=torch.float64, generator=torch.manual_seed(1)
    ).to(want.device)
    got = torch.autograd.grad(y, leaves, weight.to(y.dtype))
    right = torch.autograd.grad(want, exact_leaves, weight)
    # A bias before a normalisation has no gradient: the exact one is noise. On
    # a GPU ours is exactly zero, on a CPU it is noise too.
    right = [b if b.norm() > 1e-9 else torch.zeros_like(b) for b in right]
    scale = 1e-12 if y.is_cuda else max(b.norm().item() for b in right)
    return [
        relative(y, want),
        *(
            relative(a, b, 1e-12 if b.any() else scale)
            for a, b in zip(got, right)
        ),
    ]


def under_bfloat16(function, enabled=True):
    """A function under autocast on the device of its first argument."""

    def run(x, *more):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            return function(x, *more)

    return run
