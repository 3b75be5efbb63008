"""Networks prepared for evaluation on a CPU."""

import copy

import torch
import torch.nn.functional as F

from amsincnet_sb.lobes.sinc_tdnn import SincTDNN, statistics
from amsincnet_sb.nnet import fast_cpu

__all__ = ["Folded", "FoldedTDNN", "fold_batchnorm", "for_evaluation"]


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
        Does the same: of a network of this package on a CPU its
        :class:`Folded` form, which later changes of the network do not
        reach, else the network itself.

    Example
    -------
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> embed = for_evaluation(SincNet(fc_neurons=[64, 32]).eval())
    >>> embed(torch.randn(3, 3200)).shape
    torch.Size([3, 1, 32])
    """
    if not getattr(net, "fast", False) or net.sinc.low.device.type != "cpu":
        return net
    kind = FoldedTDNN if isinstance(net, SincTDNN) else Folded
    folded = kind(net, dtype)
    return lambda windows: folded.embed_windows(windows).unsqueeze(1)


def fold_batchnorm(layer, norm):
    """Put batch normalisation with fixed statistics into the layer before it.

    Arguments
    ---------
    layer : torch.nn.Linear or torch.nn.Conv1d
        Its bias may be missing.
    norm : torch.nn.BatchNorm1d
        Its running statistics are used, whatever its mode.

    Returns
    -------
    weight : torch.Tensor
        Of the layer's shape.
    bias : torch.Tensor
        ``[out]``.

    Example
    -------
    >>> linear, norm = torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2).eval()
    >>> x = torch.randn(3, 4)
    >>> y = F.linear(x, *fold_batchnorm(linear, norm))
    >>> torch.allclose(y, norm(linear(x)), atol=1e-6)
    True
    """
    with torch.no_grad():
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean
        if layer.bias is not None:
            shift = layer.bias + shift
        shape = [-1] + [1] * (layer.weight.dim() - 1)
        return layer.weight * scale.view(shape), shift * scale + norm.bias


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
        self.linears = _fold_all(net.linears, net.fc_norms, dtype)

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
        return self._connect(
            self.flat_norm(self.cnn(x).transpose(1, 2).flatten(1))
        )

    def _connect(self, x):
        last = len(self.linears) - 1
        for layer, (weight, bias) in enumerate(self.linears):
            y = fast_cpu.linear(x.to(self.dtype), weight, bias)
            x = y.to(x.dtype)
            if layer < last or not self.linear_embedding:
                x = F.leaky_relu_(x, self.slope)
        return x


class FoldedTDNN(Folded):
    """:class:`Folded` for a SincTDNN.

    Arguments
    ---------
    net : amsincnet_sb.lobes.sinc_tdnn.SincTDNN
        On the CPU.
    dtype : torch.dtype
        Of the products.

    Example
    -------
    >>> net = SincTDNN(tdnn_channels=[16] * 4, fc_neurons=[64, 32]).eval()
    >>> windows = torch.randn(3, 3200)
    >>> with torch.no_grad():
    ...     expected = net.embed_windows(windows)
    >>> y = FoldedTDNN(net).embed_windows(windows)
    >>> torch.allclose(y, expected, atol=1e-4)
    True
    """

    linear_embedding = True

    # Of the maps between the convolutions; they are larger than SincNet's.
    group = 64

    def __init__(self, net, dtype=torch.float32):
        self.dtype = dtype
        self.slope = net.negative_slope
        self.cnn = fast_cpu.frozen_cnn(
            None,
            net.sinc.filters(),
            [],
            [(net.sinc_norm.weight, net.sinc_norm.bias)],
            [net.sinc_pool],
            net.input_norm.eps,
            net.negative_slope,
            dtype,
            net.log_floor,
        )
        self.convs = [
            (weight, bias, stride, residual)
            for (weight, bias), stride, residual in zip(
                _fold_all(net.convs, net.conv_norms, dtype),
                net.tdnn_strides,
                net.residual,
            )
        ]
        self.pool_norm = copy.deepcopy(net.pool_norm).eval()
        self.linears = _fold_all(net.linears, net.fc_norms, dtype)

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
        # Few at a time through the convolutions, all through the weights of
        # the linear layers, for the caches' sake.
        pooled = [self._pool(x) for x in windows.split(self.group)]
        return self._connect(self.pool_norm(torch.cat(pooled)))

    def _pool(self, x):
        x = self.cnn(x).to(self.dtype)
        for weight, bias, stride, residual in self.convs:
            y = F.leaky_relu_(
                fast_cpu.conv(x, weight, stride, bias), self.slope
            )
            if residual:
                cut = (x.shape[1] - y.shape[1]) // 2
                y += x[:, cut : cut + y.shape[1]]
            x = y
        return statistics(x)


def _fold_all(layers, norms, dtype):
    """Weight and bias of each layer with its norm folded in."""
    return [
        tuple(part.to(dtype) for part in fold_batchnorm(layer, norm))
        for layer, norm in zip(layers, norms)
    ]
