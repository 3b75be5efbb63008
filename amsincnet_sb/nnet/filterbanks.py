"""Other filters in the place of the sinc layer, to compare it with.

:data:`FILTERS` has them by the name that a network's ``filters`` gives. All
have as many channels and taps and the output rate of the sinc layer with the
pooling behind it. There are two kinds:

* filters with an impulse response: modules with ``filters()``, ``[channels,
  taps]``. Magnitude, max-pooling and logarithm behind them are the network's,
  and so are the fast kernels.
* features (:mod:`amsincnet_sb.nnet.frame_features`), which take the place of
  magnitude, pooling and logarithm as well: modules that map normalised windows
  ``[windows, time]`` to ``[windows, channels, (time - taps + 1) // pool]``.

``filter_parameters`` say where filters lie:
:func:`amsincnet_sb.nnet.optimizers.parameter_groups` sets their learning rate
apart.
"""

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.nnet.frame_features import LeafFeatures, MelFeatures
from amsincnet_sb.nnet.sinc import SincConv

__all__ = [
    "FILTERS",
    "FreeConv",
    "GaborConv",
    "HzSincConv",
    "PlacedSincConv",
    "make_filters",
]

# Cut-offs in Hz, by their middle, after 12 000 steps of sinc_tdnn_robust.yaml as
# it was when they were learned in it (docs/accuracy.md), on training sentences of
# speechocean762 (Apache License 2.0), at this sample rate.
# As those of any SincConv, a few ended above half of it.
CUTOFFS = Path(__file__).parents[1] / "data" / "cutoffs.csv"
CUTOFFS_RATE = 16000

LEAST_HZ = 1e-4  # above the least cut-offs, where a magnitude has no gradient
LARGEST_FRAMES = 2**26  # samples of all frames of a window together


class PlacedSincConv(SincConv):
    """:class:`SincConv` that starts where filters of another training ended.

    That was one through many channels, on another corpus: about as many
    narrow bands as wide ones, at all frequencies. It helps where there are few
    steps, small batches or many channels to be learned, see docs/accuracy.md.
    Fewer filters than the 80 learned then are some of them, at equal distances
    in the order of frequency. At lower sample rates there are those below half
    the rate; more filters than that start on the mel scale.

    Example
    -------
    >>> low, high = PlacedSincConv(out_channels=4).cutoffs_hz()
    >>> ((high - low) / low).round().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    @torch.no_grad()
    def _reset_parameters(self):
        super()._reset_parameters()
        on_mel_scale = torch.stack(self.cutoffs_hz(), 1)
        known = np.loadtxt(CUTOFFS, np.float32, delimiter=",", skiprows=1)
        if self.sample_rate < CUTOFFS_RATE:
            known = known[known[:, 1] < self.sample_rate / 2]
        known = torch.from_numpy(known).to(self.low.device)
        count = min(self.out_channels, len(known))
        rows = torch.cat(
            [
                _evenly(known, count),
                _evenly(on_mel_scale, self.out_channels - count),
            ]
        )
        low, high = rows[rows.sum(1).argsort()].T
        # Where the least cut-offs are higher, as near as they allow.
        above = (low - self.min_low_hz).clamp(min=LEAST_HZ)
        beyond = (high - low - self.min_band_hz).clamp(min=LEAST_HZ)
        self.low.copy_(above / self.sample_rate)
        self.band.copy_(beyond / self.sample_rate)


def _evenly(rows, count):
    """As many of some rows, at equal distances."""
    every = len(rows) / max(1, count)
    return rows[[int((n + 0.5) * every) for n in range(count)]]


class GaborConv(SincConv):
    """Gabor filters: :class:`SincConv` with a Gaussian in place of the sinc.

    A filter's magnitude falls to one half at its two cut-offs, which are
    parameters, start and have units as those of ``SincConv``: the two differ
    in the shape of a band alone. The centre is the middle of the cut-offs.

    Real Gabor filters of P.-G. Noé, T. Parcollet and M. Morchid, "CGCNN:
    complex Gabor convolutional neural network on raw speech", ICASSP 2020,
    https://arxiv.org/abs/2002.04569. SpeechBrain's ``GaborConv1d``, which
    :class:`LeafFeatures` uses, is complex and has its widths in samples, which
    hardly move at a network's learning rate.

    Example
    -------
    >>> layer = GaborConv(out_channels=80, kernel_size=251)
    >>> layer(torch.randn(4, 3200)).shape
    torch.Size([4, 80, 2950])
    """

    def _envelope(self, turns):
        return torch.exp(-((math.pi * turns) ** 2) / (4 * math.log(2)))


class HzSincConv(SincConv):
    """SpeechBrain's ``SincConv`` as it learns: cut-offs in Hz, and its start.

    Parameters, start and effective cut-offs are those of
    ``speechbrain.nnet.CNN.SincConv``, clamped at half the sample rate. The
    filters, which are the same function, are computed as ours are, in float32
    also under autocast.

    Example
    -------
    >>> HzSincConv(out_channels=4).band.data
    tensor([ 630.1318, 1159.5535, 2133.7817, 3926.5330])
    """

    def _reset_parameters(self):
        from speechbrain.nnet.CNN import SincConv as Theirs

        theirs = Theirs(
            self.out_channels,
            self.kernel_size,
            in_channels=1,
            sample_rate=self.sample_rate,
            min_low_hz=self.min_low_hz,
            min_band_hz=self.min_band_hz,
        )
        with torch.no_grad():
            self.low.copy_(theirs.low_hz_.squeeze(1))
            self.band.copy_(theirs.band_hz_.squeeze(1))

    def cutoffs(self):
        """Effective cut-offs ``low, high`` in units of the sample rate."""
        low = self.low.abs() + self.min_low_hz
        high = low + self.band.abs() + self.min_band_hz
        high = high.clamp(max=self.sample_rate / 2)
        return low / self.sample_rate, high / self.sample_rate


class FreeConv(nn.Module):
    """Filters whose taps are all learned, as those of any convolution.

    They start as those of a :class:`SincConv`, or ``random``: normal, each as
    large as the sinc filter of its channel. Other arguments are those of
    ``SincConv``.

    Example
    -------
    >>> FreeConv(4, 31)(torch.randn(2, 100)).shape
    torch.Size([2, 4, 70])
    """

    symmetric = False

    def __init__(
        self,
        out_channels,
        kernel_size,
        sample_rate=16000,
        min_low_hz=50.0,
        min_band_hz=50.0,
        random=False,
    ):
        super().__init__()
        start = SincConv(
            out_channels, kernel_size, sample_rate, min_low_hz, min_band_hz
        )
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size))
        if self.weight.is_meta:
            return
        with torch.no_grad():
            filters = start.filters()
            if random:
                noise = F.normalize(torch.randn_like(filters))
                filters = noise * filters.norm(dim=1, keepdim=True)
            self.weight.copy_(filters)

    @property
    def filter_parameters(self):
        """The taps."""
        return [self.weight]

    def filters(self):
        """Impulse responses ``[out_channels, kernel_size]``."""
        return self.weight

    def forward(self, x):
        """``[batch, time]`` to ``[batch, out_channels, time - taps + 1]``."""
        return F.conv1d(x.unsqueeze(1), self.weight.unsqueeze(1))


#: Name -> what makes the filters of a network.
FILTERS = {
    "sinc": SincConv,
    "sinc_placed": PlacedSincConv,
    "sinc_hz": HzSincConv,
    "gabor": GaborConv,
    "fir": FreeConv,
    "fir_random": functools.partial(FreeConv, random=True),
    "fbank": MelFeatures,
    "leaf": LeafFeatures,
    "leaf_log": functools.partial(LeafFeatures, pcen=False),
}
_FEATURES = {"fbank", "leaf", "leaf_log"}


def make_filters(
    name, channels, taps, sample_rate, min_low_hz, min_band_hz, pool, window
):
    """The filters of a network by their name in :data:`FILTERS`.

    Raises
    ------
    ValueError
        If there is no such name, or the sizes do not fit.

    Example
    -------
    >>> type(
    ...     make_filters("gabor", 80, 251, 16000, 50.0, 50.0, 3, 3200)
    ... ).__name__
    'GaborConv'
    """
    if name not in FILTERS:
        raise ValueError(
            f"filters is {name!r} but must be one of {', '.join(FILTERS)}."
        )
    if name in _FEATURES:
        if taps * window // pool > LARGEST_FRAMES:
            raise ValueError(
                f"filters: {taps} taps around every {pool} of a window's "
                f"{window} samples are more than {LARGEST_FRAMES}."
            )
        return FILTERS[name](channels, taps, sample_rate, pool)
    return FILTERS[name](channels, taps, sample_rate, min_low_hz, min_band_hz)
