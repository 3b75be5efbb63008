"""A SincNet prepared for evaluation on a CPU."""

import copy

import torch
import torch.nn.functional as F

from amsincnet_sb.nnet import fast_cpu

__all__ = ["Folded", "fold_batchnorm", "for_evaluation"]


def for_evaluation(net, dtype=torch.float32):
    """The fastest way to embed many windows with a network as it is now.

    Arguments
    ---------
    net : torch.nn.Module
        Maps windows ``[windows, window]`` to ``[windows, 1, embedding_size]``.
    dtype : torch.dtype
        Of the matrix products on a CPU.

    Returns
    -------
    callable
        Does the same: of a SincNet on a CPU its :class:`Folded` form, which
        later changes of the network do not reach, else the network itself.

    Example
    -------
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> embed = for_evaluation(SincNet(fc_neurons=[64, 32]).eval())
    >>> embed(torch.randn(3, 3200)).shape
    torch.Size([3, 1, 32])
    """
    if not getattr(net, "fast", False) or net.sinc.low.device.type != "cpu":
        return net
    folded = Folded(net, dtype)
    return lambda windows: folded.embed_windows(windows).unsqueeze(1)


def fold_batchnorm(linears, norms):
    """Put batch normalisation with fixed statistics into the linear layers.

    Arguments
    ---------
    linears : sequence of torch.nn.Linear
        Each followed by its norm.
    norms : sequence of torch.nn.BatchNorm1d
        Their running statistics are used, whatever their mode.

    Returns
    -------
    list of tuple of torch.Tensor
        Weight ``[out, in]`` and bias ``[out]`` of each.

    Example
    -------
    >>> linear, norm = torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2).eval()
    >>> [(weight, bias)] = fold_batchnorm([linear], [norm])
    >>> x = torch.randn(3, 4)
    >>> y = F.linear(x, weight, bias)
    >>> torch.allclose(y, norm(linear(x)), atol=1e-6)
    True
    """
    folded = []
    with torch.no_grad():
        for linear, norm in zip(linears, norms):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            bias = (linear.bias - norm.running_mean) * scale + norm.bias
            folded.append((linear.weight * scale[:, None], bias))
    return folded


class Folded:
    """Embeddings of many windows, as the network in evaluation mode.

    The sinc filters are computed once and batch normalisation disappears in
    the linear layers, so a change of the network does not reach this object:
    make a new one for each evaluation, which takes milliseconds.

    Arguments
    ---------
    net : amsincnet_sb.lobes.sincnet.SincNet
        On the CPU.
    dtype : torch.dtype
        Of the matrix products; with ``torch.bfloat16`` everything between
        them is still float32.

    Example
    -------
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> net = SincNet(fc_neurons=[64, 32]).eval()
    >>> windows = torch.randn(3, 3200)
    >>> with torch.no_grad():
    ...     expected = net.embed_windows(windows)
    >>> torch.allclose(Folded(net).embed_windows(windows), expected, atol=1e-4)
    True
    """

    # The linear layers' weights fill a cache: many windows must share a pass
    # over them, where the convolutions want few at a time.
    group = 512

    def __init__(self, net, dtype=torch.float32):
        self.dtype = dtype
        self.slope = net.negative_slope
        self.linear_embedding = net.linear_embedding
        self.flat_norm = copy.deepcopy(net.flat_norm)
        self.cnn = fast_cpu.frozen_cnn(
            (net.input_norm.weight, net.input_norm.bias),
            net.sinc.filters(),
            [(conv.weight, conv.bias) for conv in net.convs],
            [(norm.weight, norm.bias) for norm in net.cnn_norms],
            net.cnn_pools,
            net.input_norm.eps,
            net.negative_slope,
            dtype,
        )
        self.linears = [
            (weight.to(dtype), bias.to(dtype))
            for weight, bias in fold_batchnorm(net.linears, net.fc_norms)
        ]

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def embed_windows(self, windows):
        """One embedding a window.

        Arguments
        ---------
        windows : torch.Tensor
            ``[windows, window]``, float32; a strided view will do.

        Returns
        -------
        torch.Tensor
            ``[windows, embedding_size]``, float32.
        """
        return torch.cat([self._embed(x) for x in windows.split(self.group)])

    def _embed(self, x):
        x = self.flat_norm(self.cnn(x))
        last = len(self.linears) - 1
        for layer, (weight, bias) in enumerate(self.linears):
            y = fast_cpu.linear(x.to(self.dtype), weight, bias)
            x = y.to(x.dtype)
            if layer < last or not self.linear_embedding:
                x = F.leaky_relu_(x, self.slope)
        return x
