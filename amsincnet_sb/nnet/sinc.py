"""Learnable band-pass filters on the raw waveform.

Reference: M. Ravanelli and Y. Bengio, "Speaker recognition from raw waveform
with SincNet", SLT 2018, https://arxiv.org/abs/1808.00158.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["SincConv"]


def _mel_cutoffs(n_filters, sample_rate):
    """Initial cut-offs in Hz: overlapping bands of equal width in mel."""
    # Filter i spans the points i - 1 to i + 1 of a grid from 80 mel to half
    # the sample rate.
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    mel = torch.linspace(80.0, top, n_filters, dtype=torch.float64)
    points = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    low, high = points.roll(1), points.roll(-1)
    low[0] = 30.0
    high[-1] = sample_rate / 2 - 100.0
    return low, high


class SincConv(nn.Module):
    """Convolution with band-pass filters, each given by two learned cut-offs.

    A filter of ``K`` taps ``t = -(K-1)/2 … (K-1)/2`` is an ideal band-pass,
    scaled to a peak of one and multiplied by a Hamming window ``w``::

        h[t] = w[t] · (2·high·sinc(2·high·t) − 2·low·sinc(2·low·t)) / peak
             = w[t] · sinc(band·t) · cos(2π·(low + band/2)·t)

    (the second form is the same function without its cancellation). The
    effective cut-offs are ``|low| + min_low_hz`` and, above that, ``|band| +
    min_band_hz``; nothing clamps them at half the sample rate. The parameters
    ``low`` and ``band``, ``[out_channels]``, are in units of the sample rate.

    SpeechBrain's ``SincConv`` learns its cut-offs in Hz, where 20 steps of
    Adam with a learning rate of 1e-3 move them by 0.02 Hz and ours by some
    100 Hz; and under bfloat16 autocast its filters are 7 % off, ours exact.

    Arguments
    ---------
    out_channels : int
        Number of filters.
    kernel_size : int
        Taps of a filter, odd.
    sample_rate : int
        In Hz.
    min_low_hz : float
        Least low cut-off, in Hz.
    min_band_hz : float
        Least bandwidth, in Hz.
    stride : int
        Between output positions, in samples.

    Raises
    ------
    ValueError
        If ``kernel_size`` is even or there are fewer than two filters.

    Example
    -------
    >>> layer = SincConv(out_channels=80, kernel_size=251)
    >>> layer(torch.randn(4, 3200)).shape
    torch.Size([4, 80, 2950])
    >>> layer.filters().shape
    torch.Size([80, 251])
    """

    symmetric = True  # in time, as the kernels for CPUs need it

    def __init__(
        self,
        out_channels: int = 80,
        kernel_size: int = 251,
        sample_rate: int = 16000,
        min_low_hz: float = 50.0,
        min_band_hz: float = 50.0,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"SincConv: kernel_size is {kernel_size} but must be odd, so "
                "that a filter has a middle."
            )
        if out_channels < 2:
            raise ValueError(
                f"SincConv: out_channels is {out_channels} but must be at "
                "least 2."
            )
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.sample_rate = sample_rate
        self.min_low_hz = min_low_hz
        self.min_band_hz = min_band_hz
        self.stride = stride

        self.low = nn.Parameter(torch.empty(out_channels, dtype=torch.float32))
        self.band = nn.Parameter(torch.empty(out_channels, dtype=torch.float32))
        # On "meta" there is nothing to initialise, and computing it there
        # makes torch import its compiler, which takes seconds.
        if not self.low.is_meta:
            self._reset_parameters()

    @property
    def filter_parameters(self) -> list[nn.Parameter]:
        """The parameters that say where the filters lie: all."""
        return [self.low, self.band]

    @torch.no_grad()
    def _reset_parameters(self):
        low, high = _mel_cutoffs(self.out_channels, self.sample_rate)
        self.low.copy_(low / self.sample_rate)
        self.band.copy_((high - low) / self.sample_rate)

    def cutoffs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Effective cut-offs ``low, high`` in units of the sample rate."""
        low = self.low.abs() + self.min_low_hz / self.sample_rate
        high = low + self.band.abs() + self.min_band_hz / self.sample_rate
        return low, high

    def cutoffs_hz(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Effective cut-offs ``low, high`` in Hz, detached.

        Example
        -------
        >>> low, high = SincConv().cutoffs_hz()
        >>> [round(hz.item()) for hz in (low[0], high[0])]
        [80, 175]
        """
        low, high = (x.detach() * self.sample_rate for x in self.cutoffs())
        return low, high

    def filters(self) -> torch.Tensor:
        """Impulse responses ``[out_channels, kernel_size]``."""
        device, taps = self.low.device, self.kernel_size
        # In float64: the phase turns up to a hundred times, which costs
        # float32 two digits. Not from buffers, which .half() would round.
        exact = torch.float32 if device.type == "mps" else torch.float64
        half = (taps - 1) // 2
        t = torch.arange(-half, half + 1, dtype=exact, device=device)
        phase = torch.linspace(0, 2 * math.pi, taps, dtype=exact, device=device)
        hamming = 0.54 - 0.46 * torch.cos(phase)
        with torch.autocast(device.type, enabled=False):
            low, high = (hz[:, None].to(exact) for hz in self.cutoffs())
            carrier = torch.cos(math.pi * (low + high) * t)
            filters = hamming * self._envelope((high - low) * t) * carrier
            return filters.to(self.low.dtype)

    def _envelope(self, turns):
        """What limits a band, by bandwidth times samples."""
        return torch.sinc(turns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter waveforms, without padding.

        Arguments
        ---------
        x : torch.Tensor
            ``[batch, time]`` or ``[batch, 1, time]``.

        Returns
        -------
        torch.Tensor
            ``[batch, out_channels, (time - kernel_size) // stride + 1]``.
        """
        if x.dim() == 2:
            x = x.unsqueeze(1)
        return F.conv1d(x, self.filters().unsqueeze(1), stride=self.stride)

    def extra_repr(self) -> str:
        """Text for ``print(module)``."""
        return (
            f"{self.out_channels}, kernel_size={self.kernel_size}, "
            f"sample_rate={self.sample_rate}, stride={self.stride}"
        )
