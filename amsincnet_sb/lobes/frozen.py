"""Networks prepared for evaluation."""

import contextlib
import copy
import threading

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels import kernels_for
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.nnet.normalization import TimeLayerNorm
from amsincnet_sb.utils.threads import one_thread_each

__all__ = [
    "Folded",
    "FoldedTDNN",
    "compile_evaluation",
    "fold_batchnorm",
    "for_evaluation",
]

# Windows that are worth a thread.
LEAST_GROUP = 64
# Windows at a time in the plain form, whose feature maps are large.
PLAIN_GROUP = 128
FEW = 256  # windows, with which kernels are compiled


def for_evaluation(net, dtype=torch.float32):
    """The fastest way to embed many windows with a network as it is now.

    A function of one or several tensors of windows, each ``[windows,
    window]``, to ``[windows, 1, embedding_size]``: of a network of this package
    its :class:`Folded` form, which later changes of the network do not reach,
    else, and where there are no kernels for its filters, the network itself, a
    few windows at a time. On a CPU, windows that overlap cost less if they
    come as a strided view of their recording. ``dtype`` is that of the
    matmuls; windows that leave the range of float16 are embedded in float32.

    Example
    -------
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> embed = for_evaluation(SincNet(fc_neurons=[64, 32]).eval())
    >>> embed(torch.randn(3, 3200)).shape
    torch.Size([3, 1, 32])
    """
    plain = not isinstance(net, WindowedEmbedding)
    if plain or net.filter_kernels(next(net.parameters())) is None:
        return lambda *windows: torch.cat(
            [net(part) for part in _joined(windows).split(PLAIN_GROUP)]
        )
    kind = FoldedTDNN if isinstance(net, SincTDNN) else Folded
    folded = kind(net, dtype)
    wide = kind(net) if dtype == torch.float16 else None

    def embed(*windows):
        """One embedding per window."""
        x = folded.embed_windows(*windows)
        if wide is not None and not x.isfinite().all():
            x = wide.embed_windows(*windows)
        return x.unsqueeze(1)

    return embed


def compile_evaluation(net, windows, dtype):
    """Compile the kernels of :func:`for_evaluation` beside a training.

    Does once, in a thread, what an evaluation does, with weights that may
    change in the meantime, and with few windows, whose memory the evaluation
    will not use. Returns the thread, or None for a network that has no kernels.
    What fails here fails again, and says why, where it is needed.
    """
    if not isinstance(net, WindowedEmbedding) or not windows.is_cuda:
        return None

    # Kernels are of their own for numbers that 16 divides.
    windows = windows[: FEW + len(windows) % 16]

    def run():
        """An evaluation that nobody reads."""
        stream = torch.cuda.Stream(windows.device)
        with (
            contextlib.suppress(Exception),
            torch.no_grad(),
            torch.cuda.stream(stream),
        ):
            for_evaluation(net, dtype)(windows)
            stream.synchronize()

    thread = threading.Thread(target=run, name="compile evaluation")
    thread.start()
    return thread


def fold_batchnorm(layer, norm):
    """Weight and bias of a layer with the batch normalisation behind it.

    Of a Linear or Conv1d, whose own bias may be missing. The running
    statistics are used, whatever the mode.
    """
    with torch.no_grad():
        scale, bias = _scale_and_bias(norm, layer.bias)
        shape = [-1] + [1] * (layer.weight.dim() - 1)
        return layer.weight * scale.view(shape), bias


def _scale_and_bias(norm, before=None):
    """What a batch normalisation does, and a bias before it."""
    mean = norm.running_mean
    if before is not None:
        mean = mean - before
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class Folded:
    """Embeddings of many windows, as by a SincNet in evaluation mode.

    The sinc filters are computed once and batch normalisation disappears in
    the linear layers, so a change of the network does not reach this object:
    make a new one for each evaluation, which takes milliseconds. The network
    is on a device with kernels; ``dtype`` is that of the matmuls, between
    which everything is still float32 on a CPU.

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

    # On a CPU. The linear layers' weights fill a cache: many windows must
    # share a pass over them, where the convolutions want few at a time.
    group = 512

    def __init__(self, net, dtype=torch.float32):
        kernels = kernels_for(next(net.parameters()))
        self.slope = net.negative_slope
        self.linear_embedding = net.linear_embedding
        self._freeze_features(net, kernels, dtype)
        self.linears = [
            kernels.frozen_linear(*fold_batchnorm(layer, norm), dtype)
            for layer, norm in zip(net.linears, net.fc_norms)
        ]

    def embed_windows(self, *windows):
        """``[windows, window]`` to ``[windows, embedding_size]``, float32.

        Of several tensors, those of the first come first. A strided view of
        the windows will do. On a CPU, groups of many windows are embedded side
        by side.
        """
        size = _group_size(sum(map(len, windows)), self.group)
        groups = list(_groups_of_several(windows, size))
        with one_thread_each(len(groups) > 1) as side_by_side:
            return torch.cat(list(side_by_side(self._embed_group, groups)))

    @torch.no_grad()
    def _embed_group(self, group):
        with torch.autocast(group[0].device.type, enabled=False):
            x = torch.cat([self._features(x) for x in group])
            return self._connect(x)

    def _freeze_features(self, net, kernels, dtype):
        self.cnn = kernels.frozen_cnn(*net.layers(), dtype)
        self.flat_norm = copy.deepcopy(net.flat_norm)

    def _features(self, x):
        return self.flat_norm(self.cnn(x).transpose(1, 2).flatten(1))

    def _connect(self, x):
        last = len(self.linears) - 1
        for layer, linear in enumerate(self.linears):
            x = linear(x).to(x.dtype)
            if layer < last or not self.linear_embedding:
                x = F.leaky_relu_(x, self.slope)
        return x


class FoldedTDNN(Folded):
    """:class:`Folded` for a SincTDNN."""

    # On a CPU, of the feature maps between the convolutions.
    map_group = 64

    def _freeze_features(self, net, kernels, dtype):
        norm = net.sinc_norm
        by_window = isinstance(norm, TimeLayerNorm)
        self.cnn = kernels.frozen_cnn(
            None,
            net.sinc.filters(),
            [],
            [(norm.weight, norm.bias) if by_window else _scale_and_bias(norm)],
            [net.sinc_pool],
            net.input_norm.eps,
            net.negative_slope,
            dtype,
            net.log_floor,
        )
        self.convs = [
            kernels.frozen_conv(
                *fold_batchnorm(conv, norm),
                conv.stride[0],
                net.negative_slope,
                residual,
                dtype,
            )
            for conv, norm, residual in zip(
                net.convs, net.conv_norms, net.residual
            )
        ]
        self.statistics = kernels.statistics
        self.pool_norm = copy.deepcopy(net.pool_norm).eval()

    def _features(self, x):
        pooled = [self._pool(part) for part in _groups(x, self.map_group)]
        return self.pool_norm(torch.cat(pooled))

    def _pool(self, x):
        x = self.cnn(x)
        for conv in self.convs:
            x = conv(x)
        return self.statistics(x)


def _group_size(windows, most):
    """Windows of a group, such that every thread has as many of them."""
    threads = torch.get_num_threads()
    groups = threads * max(1, -(-windows // (threads * most)))
    return min(most, max(LEAST_GROUP, -(-windows // groups)))


def _groups(windows, size):
    return [windows] if windows.is_cuda else windows.split(size)


def _groups_of_several(tensors, size):
    """Lists of tensors with so many windows at most; on a GPU, of one."""
    if tensors[0].is_cuda:
        tensors = [_joined(tensors)]
    group, count = [], 0
    for tensor in tensors:
        for part in _groups(tensor, size):
            if group and count + len(part) > size:
                yield group
                group, count = [], 0
            group.append(part)
            count += len(part)
    yield group


def _joined(tensors):
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
