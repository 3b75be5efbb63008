"""SincTDNN: SincNet's filters in front of a time-delay network.

The filters are those of M. Ravanelli and Y. Bengio, "Speaker recognition from
raw waveform with SincNet", SLT 2018, https://arxiv.org/abs/1808.00158; they
are followed by an x-vector network (D. Snyder et al., "X-vectors: robust DNN
embeddings for speaker recognition", ICASSP 2018) for windows of 200 ms.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.lobes.windowed import MOMENTUM, WindowedEmbedding
from amsincnet_sb.nnet.augmentation import BandMask
from amsincnet_sb.nnet.normalization import TimeLayerNorm
from amsincnet_sb.nnet.pooling import statistics

__all__ = ["SincTDNN"]

SINC_NORMS = ("layer", "batch")
_LAYERS = ("tdnn_channels", "tdnn_kernel_sizes", "tdnn_strides")


class SincTDNN(WindowedEmbedding):
    """Speaker embeddings from the raw waveform, over windows of 200 ms.

    Its input and its filters are SincNet's, but a pattern that it learns at
    one position of a window is recognised at every other:

    * the logarithm of a filter's magnitude is normalised, not the magnitude,
      as in every filterbank;
    * convolutions have a stride where SincNet's are followed by max-pooling,
      and batch normalisation, which has no parameters for each position;
    * mean and standard deviation over time are kept of their output, where
      SincNet flattens the whole feature map and weighs each time by itself.

    Arguments
    ---------
    sample_rate, window, hop
        See :class:`amsincnet_sb.lobes.sincnet.SincNet`.
    sinc_channels : int
        Filters of the sinc layer.
    sinc_kernel_size : int
        Taps of a filter, odd.
    sinc_pool : int
        Max-pooling of the magnitudes.
    sinc_norm : str
        ``layer``: each filter's output is normalised within its window, with a
        gain for each time; it takes off what is constant in a window, such as
        a microphone's response. ``batch``: by statistics of the training, so
        that what is constant in a window tells who speaks, too.
    log_floor : float
        Added to a magnitude before its logarithm; 0 leaves the logarithm out.
    tdnn_channels : sequence of int
        Channels of each convolution.
    tdnn_kernel_sizes : sequence of int
        Taps of each.
    tdnn_strides : sequence of int
        Stride of each. A convolution of stride 1 with as many channels out as
        in and an odd number of taps gets a residual connection.
    band_mask : int
        Largest number of neighbouring filters masked in training, see
        :class:`amsincnet_sb.nnet.augmentation.BandMask`.
    fc_neurons, dropout, negative_slope, min_low_hz, min_band_hz, fast, filters
        See :class:`amsincnet_sb.lobes.sincnet.SincNet`; so for attributes and
        errors.

    Example
    -------
    >>> net = SincTDNN(tdnn_channels=[16, 16, 32, 32], fc_neurons=[64, 32])
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
        sinc_channels: int = 80,
        sinc_kernel_size: int = 251,
        sinc_pool: int = 3,
        log_floor: float = 0.01,
        tdnn_channels: Sequence[int] = (96, 128, 256, 256),
        tdnn_kernel_sizes: Sequence[int] = (5, 5, 3, 3),
        tdnn_strides: Sequence[int] = (3, 3, 1, 1),
        fc_neurons: Sequence[int] = (2048, 2048),
        dropout: float = 0.1,
        band_mask: int = 0,
        negative_slope: float = 0.2,
        min_low_hz: float = 50.0,
        min_band_hz: float = 50.0,
        fast: bool = True,
        filters: str = "sinc",
        sinc_norm: str = "layer",
    ) -> None:
        super().__init__(
            locals(),
            _LAYERS,
            sizes=("sinc_channels", "sinc_kernel_size", "sinc_pool"),
        )
        self.sinc_pool = sinc_pool
        self.log_floor = log_floor
        time = (window - sinc_kernel_size + 1) // sinc_pool
        times = [time]
        for taps, stride in zip(tdnn_kernel_sizes, tdnn_strides):
            time = (time - taps) // stride + 1
            times.append(time)
        if min(times) < 2:
            raise ValueError(
                f"SincTDNN: a window of {window} samples is too short for "
                f"kernels {[sinc_kernel_size, *tdnn_kernel_sizes]} and strides "
                f"{[sinc_pool, *tdnn_strides]}."
            )
        self.input_norm = TimeLayerNorm(window, affine=False)
        self._add_filters(sinc_channels, sinc_kernel_size, sinc_pool)
        if sinc_norm not in SINC_NORMS:
            raise ValueError(
                f"SincTDNN: sinc_norm is {sinc_norm!r} where one of "
                f"{', '.join(SINC_NORMS)} is needed."
            )
        self.sinc_norm: nn.Module = (
            nn.BatchNorm1d(sinc_channels, momentum=MOMENTUM)
            if sinc_norm == "batch"
            else TimeLayerNorm((sinc_channels, times[0]))
        )
        self.band_mask = BandMask(band_mask)
        channels = [sinc_channels, *tdnn_channels]
        # Batch normalisation takes a bias off again.
        convs = [
            nn.Conv1d(c_in, c_out, taps, stride, bias=False)
            for c_in, c_out, taps, stride in zip(
                channels, tdnn_channels, tdnn_kernel_sizes, tdnn_strides
            )
        ]
        self.convs = nn.ModuleList(convs)
        self.residual = [
            conv.in_channels == conv.out_channels
            and conv.stride == (1,)
            and conv.kernel_size[0] % 2 == 1
            for conv in convs
        ]
        self.conv_norms = nn.ModuleList(
            nn.BatchNorm1d(n, momentum=MOMENTUM) for n in tdnn_channels
        )
        self.pool_norm = nn.BatchNorm1d(2 * channels[-1], momentum=MOMENTUM)
        self._add_linears(2 * channels[-1])

    def sinc_map(self, windows: torch.Tensor) -> torch.Tensor:
        """Filters, magnitude, logarithm, normalisation and, in training, mask.

        Returns ``[windows, time, channels]``.
        """
        kernels = self.filter_kernels(windows)
        keep = self.band_mask.draw(
            len(windows), self.sinc.out_channels, windows.device
        )
        norm = self.sinc_norm
        by_window = isinstance(norm, TimeLayerNorm)
        if kernels is None:
            x = self._filtered(windows, self.sinc_pool)
            if self.log_floor > 0 and hasattr(self.sinc, "filters"):
                x = (x + self.log_floor).log()
            x = (norm(x) if by_window else x).transpose(1, 2)
        else:
            x = kernels.sinc_map(
                windows,
                None,
                self.sinc.filters(),
                (norm.weight, norm.bias) if by_window else None,
                self.sinc_pool,
                self.input_norm.eps,
                self.negative_slope,
                self.log_floor,
                keep if by_window else None,
            )
            if by_window:  # what follows is done
                return x
        if not by_window:
            x = _by_batch(norm, x)
        x = F.leaky_relu(x, self.negative_slope)
        return self.band_mask.masked(x, keep)

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """See :class:`amsincnet_sb.lobes.windowed.WindowedEmbedding`."""
        kernels = self._kernels(windows)
        convolve = _convolve if kernels is None else kernels.conv
        x = self.sinc_map(windows)
        for conv, norm, residual in zip(
            self.convs, self.conv_norms, self.residual
        ):
            y = convolve(x, conv.weight, conv.stride[0])  # type: ignore[index]
            y = _by_batch(norm, y)
            y = F.leaky_relu(y, self.negative_slope)
            if residual:
                cut = conv.kernel_size[0] // 2  # type: ignore[index]
                y = y + x[:, cut : cut + y.shape[1]]
            x = y
        return self._connect(self.pool_norm(statistics(x)))


def _by_batch(norm, x):
    """Batch normalisation; each time of each window counts as an example."""
    return norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _convolve(x, weight, stride):
    """Plain form of a convolution of ``[batch, time, channels]``."""
    return F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
