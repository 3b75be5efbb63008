"""SincTDNN: SincNet's filters in front of a time-delay network.

The filters are those of M. Ravanelli and Y. Bengio, "Speaker recognition from
raw waveform with SincNet", SLT 2018, https://arxiv.org/abs/1808.00158; what is
behind them is an x-vector network (D. Snyder et al., "X-vectors: robust DNN
embeddings for speaker recognition", ICASSP 2018) for windows of 200 ms.
"""

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.nnet.augmentation import BandMask
from amsincnet_sb.nnet.normalization import BatchNorm, TimeLayerNorm
from amsincnet_sb.nnet.pooling import statistics
from amsincnet_sb.nnet.sinc import SincConv

__all__ = ["SincTDNN"]


class SincTDNN(WindowedEmbedding):
    """Embedding of a waveform by a network that looks at short windows.

    It reads what SincNet reads, with the same filters, but differs in what
    follows them, so that what it learns at one moment of a window holds at
    every other:

    * the logarithm of a filter's magnitude is normalised, not the magnitude,
      as in every filterbank;
    * convolutions step over time where SincNet's are pooled by maximum, and
      have batch normalisation, which knows no position;
    * mean and standard deviation over time are kept of their output, and not
      the whole map, which takes a weight for every moment.

    Arguments
    ---------
    sample_rate : int
        In Hz.
    window : int
        Samples the network looks at.
    hop : int
        Samples between windows of a longer waveform.
    sinc_channels : int
        Filters of the sinc layer.
    sinc_kernel_size : int
        Taps of a filter, odd.
    sinc_pool : int
        Max-pooling of the magnitudes.
    log_floor : float
        Added to a magnitude before its logarithm; 0 leaves the logarithm out.
    tdnn_channels : sequence of int
        Channels of each convolution.
    tdnn_kernel_sizes : sequence of int
        Taps of each.
    tdnn_strides : sequence of int
        Step of each. One that changes neither the rate nor the channels and
        has an odd number of taps gets a residual connection.
    fc_neurons : sequence of int
        Sizes of the fully connected layers; the last is the embedding's.
    dropout : float
        Probability, behind every fully connected layer but the last.
    band_mask : int
        Largest number of neighbouring filters silenced in training, see
        :class:`amsincnet_sb.nnet.augmentation.BandMask`.
    negative_slope : float
        Of the LeakyReLUs.
    min_low_hz, min_band_hz : float
        See :class:`amsincnet_sb.nnet.sinc.SincConv`.
    fast : bool
        Use the implementation written for the device; it computes the same.

    Attributes
    ----------
    window : int
        As given.
    embedding_size : int
        ``fc_neurons[-1]``.
    arguments : dict
        Plain numbers and lists with which ``SincTDNN(**arguments)`` makes a
        network of the same architecture.

    Raises
    ------
    ValueError
        If the lists differ in length, a size is not a positive whole number,
        or the window is too short.

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
        sample_rate=16000,
        window=3200,
        hop=160,
        sinc_channels=80,
        sinc_kernel_size=251,
        sinc_pool=3,
        log_floor=0.01,
        tdnn_channels=(96, 128, 256, 256),
        tdnn_kernel_sizes=(5, 5, 3, 3),
        tdnn_strides=(3, 3, 1, 1),
        fc_neurons=(2048, 2048),
        dropout=0.1,
        band_mask=0,
        negative_slope=0.2,
        min_low_hz=50.0,
        min_band_hz=50.0,
        fast=True,
    ):
        super().__init__()
        if (
            not len(tdnn_channels)
            == len(tdnn_kernel_sizes)
            == len(tdnn_strides)
        ):
            raise ValueError(
                "SincTDNN: tdnn_channels, tdnn_kernel_sizes and tdnn_strides "
                f"must be of equal length but have {len(tdnn_channels)}, "
                f"{len(tdnn_kernel_sizes)} and {len(tdnn_strides)} entries."
            )
        self._check_sizes(
            sample_rate=[sample_rate],
            window=[window],
            hop=[hop],
            sinc_channels=[sinc_channels],
            sinc_kernel_size=[sinc_kernel_size],
            sinc_pool=[sinc_pool],
            tdnn_channels=tdnn_channels,
            tdnn_kernel_sizes=tdnn_kernel_sizes,
            tdnn_strides=tdnn_strides,
            fc_neurons=fc_neurons,
        )
        self.arguments = {
            "sample_rate": sample_rate,
            "window": window,
            "hop": hop,
            "sinc_channels": sinc_channels,
            "sinc_kernel_size": sinc_kernel_size,
            "sinc_pool": sinc_pool,
            "log_floor": log_floor,
            "tdnn_channels": list(tdnn_channels),
            "tdnn_kernel_sizes": list(tdnn_kernel_sizes),
            "tdnn_strides": list(tdnn_strides),
            "fc_neurons": list(fc_neurons),
            "dropout": dropout,
            "band_mask": band_mask,
            "negative_slope": negative_slope,
            "min_low_hz": min_low_hz,
            "min_band_hz": min_band_hz,
        }
        self.fast = fast
        self.sample_rate = sample_rate
        self.window = window
        self.hop = hop
        self.embedding_size = fc_neurons[-1]
        self.sinc_pool = sinc_pool
        self.log_floor = log_floor
        self.tdnn_strides = tuple(tdnn_strides)
        self.negative_slope = negative_slope

        time = (window - sinc_kernel_size + 1) // sinc_pool
        times = [time]
        for taps, stride in zip(tdnn_kernel_sizes, tdnn_strides):
            time = (time - taps) // stride + 1
            times.append(time)
        if min(times) < 2:
            raise ValueError(
                f"SincTDNN: a window of {window} samples is too short for "
                f"kernels {[sinc_kernel_size, *tdnn_kernel_sizes]} and steps "
                f"{[sinc_pool, *tdnn_strides]}."
            )
        self.input_norm = TimeLayerNorm(window, affine=False)
        self.sinc = SincConv(
            sinc_channels,
            sinc_kernel_size,
            sample_rate,
            min_low_hz,
            min_band_hz,
        )
        self.sinc_norm = TimeLayerNorm((sinc_channels, times[0]))
        self.band_mask = BandMask(band_mask)
        channels = [sinc_channels, *tdnn_channels]
        # Batch normalisation takes a bias off again.
        self.convs = nn.ModuleList(
            nn.Conv1d(c_in, c_out, taps, stride, bias=False)
            for c_in, c_out, taps, stride in zip(
                channels, tdnn_channels, tdnn_kernel_sizes, tdnn_strides
            )
        )
        self.residual = [
            conv.in_channels == conv.out_channels
            and conv.stride == (1,)
            and conv.kernel_size[0] % 2 == 1
            for conv in self.convs
        ]
        self.conv_norms = nn.ModuleList(map(BatchNorm, tdnn_channels))
        sizes = [2 * channels[-1], *fc_neurons]
        self.pool_norm = BatchNorm(sizes[0])
        self.linears = nn.ModuleList(
            nn.Linear(n_in, n_out) for n_in, n_out in zip(sizes, sizes[1:])
        )
        self.fc_norms = nn.ModuleList(map(BatchNorm, fc_neurons))
        self.dropout = nn.Dropout(dropout)

    def sinc_map(self, windows):
        """The front-end: filters, magnitude, logarithm, normalisation, mask.

        Arguments
        ---------
        windows : torch.Tensor
            ``[windows, window]``.

        Returns
        -------
        torch.Tensor
            ``[windows, time, channels]``; in training some are masked.
        """
        kernels = self._kernels(windows)
        keep = self.band_mask.draw(
            len(windows), self.sinc.out_channels, windows.device
        )
        if kernels is not None:
            return kernels.sinc_map(
                windows,
                None,
                self.sinc.filters(),
                (self.sinc_norm.weight, self.sinc_norm.bias),
                self.sinc_pool,
                self.input_norm.eps,
                self.negative_slope,
                self.log_floor,
                keep,
            )
        x = self.sinc(self.input_norm(windows)).abs()
        x = F.max_pool1d(x, self.sinc_pool)
        if self.log_floor > 0:
            x = (x + self.log_floor).log()
        x = F.leaky_relu(self.sinc_norm(x), self.negative_slope)
        if keep is not None:
            x = torch.where(keep.unsqueeze(2), x, 0.0)
        return x.transpose(1, 2)

    def embed_windows(self, windows):
        """One embedding a window.

        Arguments
        ---------
        windows : torch.Tensor
            ``[windows, window]``.

        Returns
        -------
        torch.Tensor
            ``[windows, embedding_size]``.
        """
        kernels = self._kernels(windows)
        convolve = _convolve if kernels is None else kernels.conv
        linear = F.linear if kernels is None else kernels.linear
        x = self.sinc_map(windows)
        for conv, norm, residual in zip(
            self.convs, self.conv_norms, self.residual
        ):
            y = convolve(x, conv.weight, conv.stride[0])
            # A moment of a window is an example of its own.
            y = norm(y.flatten(0, 1)).unflatten(0, y.shape[:2])
            y = F.leaky_relu(y, self.negative_slope)
            if residual:
                cut = conv.kernel_size[0] // 2
                y = y + x[:, cut : cut + y.shape[1]]
            x = y
        x = self.pool_norm(statistics(x))
        last = len(self.linears) - 1
        for i, (layer, norm) in enumerate(zip(self.linears, self.fc_norms)):
            x = norm(linear(x, layer.weight, layer.bias))
            if i < last:
                x = self.dropout(F.leaky_relu(x, self.negative_slope))
        return x


def _convolve(x, weight, stride):
    """A convolution of maps ``[batch, time, channels]``, the plain form."""
    return F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
