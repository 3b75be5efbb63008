"""SincNet: raw waveform to speaker embedding.

M. Ravanelli and Y. Bengio, "Speaker recognition from raw waveform with
SincNet", SLT 2018, https://arxiv.org/abs/1808.00158; trained with an additive
margin: J. Nunes, D. Macêdo and C. Zanchettin, "Additive margin SincNet for
speaker recognition", IJCNN 2019, https://arxiv.org/abs/1901.10826.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.lobes.classifiers import init_linear_
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.nnet.normalization import TimeLayerNorm

__all__ = ["SincNet"]

_LAYERS = ("cnn_channels", "cnn_kernel_sizes", "cnn_pools")


class SincNet(WindowedEmbedding):
    """Speaker embeddings from the raw waveform, over windows of 200 ms.

    The default arguments are the architecture released for TIMIT with
    AM-SincNet: 80 sinc filters, two convolutions, three fully connected
    layers, an embedding of 2048 dimensions. Each window is embedded by itself;
    a longer waveform is the mean over its windows.

    Arguments
    ---------
    sample_rate : int
        In Hz.
    window : int
        Samples the network looks at.
    hop : int
        Samples between windows of a longer waveform.
    cnn_channels : sequence of int
        Filters of the sinc layer, then channels of each convolution.
    cnn_kernel_sizes : sequence of int
        Taps of each.
    cnn_pools : sequence of int
        Max-pooling behind each.
    fc_neurons : sequence of int
        Sizes of the fully connected layers; the last is the embedding's.
    dropout : float
        Probability, behind every fully connected layer but the last.
    linear_embedding : bool
        Leave out the last layer's LeakyReLU, so that an embedding can point
        in any direction. The released network has it.
    released_init : bool
        Initialise the fully connected layers as the released network does
        (see :func:`amsincnet_sb.lobes.classifiers.init_linear_`), not as
        torch does.
    negative_slope : float
        Of the LeakyReLUs.
    min_low_hz, min_band_hz : float
        See :class:`amsincnet_sb.nnet.sinc.SincConv`.
    fast : bool
        Use the kernels written for the device where there are any, see
        :mod:`amsincnet_sb.kernels`. They compute the same; False is for
        reference.
    filters : str
        Other filters in place of the sinc filters, to compare: a name in
        :data:`amsincnet_sb.nnet.filterbanks.FILTERS`.

    Attributes
    ----------
    embedding_size : int
        ``fc_neurons[-1]``.
    arguments : dict
        ``SincNet(**arguments)`` makes a network of the same architecture.

    Raises
    ------
    ValueError
        If the lists differ in length, a size is not a positive whole number,
        the window is too short, or there are no such filters.

    Example
    -------
    >>> import torch
    >>> net = SincNet(fc_neurons=[64, 64, 32])
    >>> net(torch.randn(2, 3200)).shape
    torch.Size([2, 1, 32])
    >>> net(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window: int = 3200,
        hop: int = 160,
        cnn_channels: Sequence[int] = (80, 60, 60),
        cnn_kernel_sizes: Sequence[int] = (251, 5, 5),
        cnn_pools: Sequence[int] = (3, 3, 3),
        fc_neurons: Sequence[int] = (2048, 2048, 2048),
        dropout: float = 0.0,
        linear_embedding: bool = False,
        released_init: bool = True,
        negative_slope: float = 0.2,
        min_low_hz: float = 50.0,
        min_band_hz: float = 50.0,
        fast: bool = True,
        filters: str = "sinc",
    ) -> None:
        super().__init__(locals(), _LAYERS)
        self.cnn_pools = tuple(cnn_pools)
        self.linear_embedding = linear_embedding

        self.input_norm = TimeLayerNorm(window)
        self._add_filters(cnn_channels[0], cnn_kernel_sizes[0], cnn_pools[0])
        self.convs = nn.ModuleList(
            nn.Conv1d(c_in, c_out, taps)
            for c_in, c_out, taps in zip(
                cnn_channels, cnn_channels[1:], cnn_kernel_sizes[1:]
            )
        )
        self.cnn_norms = nn.ModuleList()
        time = window
        for channels, taps, pool in zip(
            cnn_channels, cnn_kernel_sizes, cnn_pools
        ):
            time = (time - taps + 1) // pool
            if time < 2:
                raise ValueError(
                    f"SincNet: a window of {window} samples is too short for "
                    f"kernels {list(cnn_kernel_sizes)} and pooling "
                    f"{list(cnn_pools)}."
                )
            self.cnn_norms.append(TimeLayerNorm((channels, time)))

        self.flat_norm = TimeLayerNorm(cnn_channels[-1] * time)
        self._add_linears(cnn_channels[-1] * time)
        if released_init:
            for linear in self.linears:
                init_linear_(linear)

    def layers(self) -> tuple[Any, ...]:
        """The layers of :meth:`cnn`, as the kernels' arguments."""
        return (
            (self.input_norm.weight, self.input_norm.bias),
            self.sinc.filters(),
            [(conv.weight, conv.bias) for conv in self.convs],
            [(norm.weight, norm.bias) for norm in self.cnn_norms],
            self.cnn_pools,
            self.input_norm.eps,
            self.negative_slope,
        )

    def cnn(self, windows: torch.Tensor) -> torch.Tensor:
        """The convolutional part, ``[windows, channels * time]``."""
        kernels = self.filter_kernels(windows)
        if kernels is not None:
            return kernels.cnn(windows, *self.layers())
        # Magnitudes are taken of the first layer's output alone.
        x = self._normalised(self._filtered(windows, self.cnn_pools[0]), 0)
        for i, conv in enumerate(self.convs, start=1):
            x = F.max_pool1d(conv(x), self.cnn_pools[i])
            x = self._normalised(x, i)
        return x.flatten(1)

    def _normalised(self, x, layer):
        return F.leaky_relu(self.cnn_norms[layer](x), self.negative_slope)

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """See :class:`amsincnet_sb.lobes.windowed.WindowedEmbedding`."""
        return self._connect(self.flat_norm(self.cnn(windows)))
