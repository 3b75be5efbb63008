"""Other filters in the place of the sinc layer, to compare it with.

:data:`FILTERS` has them by the name that a network's ``filters`` gives. All
have as many channels and taps and the output rate of the sinc layer with the
pooling behind it. There are two kinds:

* filters with an impulse response: modules with ``filters()``, ``[channels,
  taps]``. Magnitude, max-pooling and logarithm behind them are the network's,
  and so are the fast kernels.
* features, which take the place of magnitude, pooling and logarithm as well:
  modules that map normalised windows ``[windows, time]`` to ``[windows,
  channels, (time - taps + 1) // pool]``.

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
from torch.nn.utils import parametrize

from amsincnet_sb.nnet.sinc import SincConv

__all__ = [
    "FILTERS",
    "FreeConv",
    "GaborConv",
    "HzSincConv",
    "LeafFeatures",
    "MelFeatures",
    "PlacedSincConv",
    "make_filters",
]

# Cut-offs in Hz, by their middle, after 12 000 steps of sinc_tdnn_robust.yaml on
# training sentences of speechocean762 (Apache License 2.0), at this sample rate.
# As those of any SincConv, a few ended above half of it.
CUTOFFS = Path(__file__).parents[1] / "data" / "cutoffs.csv"
CUTOFFS_RATE = 16000

LARGEST = 2**22  # taps of all filters together
LARGEST_FRAMES = 2**26  # samples of all frames of a window together


class PlacedSincConv(SincConv):
    """:class:`SincConv` that starts where filters of another training ended.

    That was one through many channels, on another corpus: about as many
    narrow bands as wide ones, at all frequencies. What is behind them has
    something steady to learn from the first step on, see docs/accuracy.md.
    Fewer filters than the 80 learned then are some of them, at equal distances
    in the order of frequency; at lower sample rates, of those below half the rate.

    Raises
    ------
    ValueError
        If there are not as many, and as of :class:`SincConv`.

    Example
    -------
    >>> low, high = PlacedSincConv(out_channels=4).cutoffs_hz()
    >>> ((high - low) / low).round().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    @torch.no_grad()
    def _reset_parameters(self):
        rows = np.loadtxt(CUTOFFS, np.float32, delimiter=",", skiprows=1)
        if self.sample_rate < CUTOFFS_RATE:
            rows = rows[rows[:, 1] < self.sample_rate / 2]
        if self.out_channels > len(rows):
            raise ValueError(
                f"PlacedSincConv: out_channels is {self.out_channels} but must "
                f"be at most {len(rows)}, the known places at a sample rate of "
                f"{self.sample_rate} Hz."
            )
        every = len(rows) / self.out_channels
        chosen = [int((n + 0.5) * every) for n in range(self.out_channels)]
        low, high = torch.from_numpy(rows[chosen]).T
        # Where the least cut-offs are higher, as near as they allow.
        above = (low - self.min_low_hz).clamp(min=0)
        beyond = (high - low - self.min_band_hz).clamp(min=0)
        self.low.copy_(above / self.sample_rate)
        self.band.copy_(beyond / self.sample_rate)


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


class _Features(nn.Module):
    """Base of features: frames of whole windows, at the middles of pools."""

    filter_parameters = ()

    def __init__(self, out_channels, kernel_size, sample_rate, pool):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"{type(self).__name__}: kernel_size is {kernel_size} but must "
                "be odd, so that a filter has a middle."
            )
        if out_channels * max(kernel_size, 1024) > LARGEST:
            raise ValueError(
                f"{type(self).__name__}: {out_channels} channels of "
                f"{kernel_size} taps are too many; have at most {LARGEST} taps."
            )
        self.out_channels, self.kernel_size = out_channels, kernel_size
        self.sample_rate, self.pool = sample_rate, pool

    def features(self, x):
        """Frames ``[batch, frames, channels]``, the t-th one at ``t * pool``.

        Each kind defines it, in float32.
        """
        raise NotImplementedError

    def forward(self, x):
        """``[batch, time]`` to ``[batch, channels, (time - taps + 1) // pool]``.

        In float32, also under autocast.
        """
        count = (x.shape[1] - self.kernel_size + 1) // self.pool
        # The sample that the outputs of the first pool are centred on.
        middle = self.kernel_size // 2 + (self.pool - 1) / 2
        first = round(middle / self.pool)
        with torch.autocast(x.device.type, enabled=False):
            found = self.features(x.float())
        return found[:, first : first + count].transpose(1, 2)


class MelFeatures(_Features):
    """SpeechBrain's ``Fbank``: logarithms of mel energies, without parameters.

    A Hamming window as long as the sinc filters, a hop of one pool, spectra of
    twice as many points, power, triangular filters and decibels, at most 80 dB
    below the loudest.

    The filters are SpeechBrain's ``Filterbank``'s, made once: it would make
    them on the CPU in every step.

    Example
    -------
    >>> MelFeatures(80, 251, 16000, 3)(torch.randn(2, 3200)).shape
    torch.Size([2, 80, 983])
    """

    def __init__(self, out_channels, kernel_size, sample_rate, pool):
        super().__init__(out_channels, kernel_size, sample_rate, pool)
        from speechbrain.processing.features import Filterbank

        self.n_fft = 2 ** math.ceil(math.log2(2 * kernel_size - 1))
        # On "meta" torch would compute nothing, and a model file holds both.
        with torch.device("cpu"):
            self.bank = Filterbank(
                n_mels=out_channels,
                n_fft=self.n_fft,
                sample_rate=sample_rate,
                f_max=sample_rate / 2,
            )
            matrix = self.bank._create_fbank_matrix(
                *(
                    hz[:, None].expand(-1, self.bank.n_stft)
                    for hz in (self.bank.f_central, self.bank.band)
                )
            )
            self.register_buffer("matrix", matrix.contiguous())
            self.register_buffer("window", torch.hamming_window(kernel_size))

    def features(self, x):
        """See the base class."""
        half = self.kernel_size // 2
        frames = F.pad(x, (half, half)).unfold(1, self.kernel_size, self.pool)
        spectra = torch.fft.rfft(frames * self.window, self.n_fft)
        power = torch.view_as_real(spectra).square().sum(-1)
        return self.bank._amplitude_to_DB(power @ self.matrix)


class LeafFeatures(_Features):
    """SpeechBrain's ``Leaf``: complex Gabor filters, low-pass, PCEN.

    N. Zeghidour et al., "LEAF: a learnable frontend for audio classification",
    ICLR 2021, https://arxiv.org/abs/2101.08596. Filters and low-pass are as
    long as the sinc filters, the hop is a pool. Centres are in radians, widths
    in samples.

    Three things are not SpeechBrain's: widths start within their bounds, outside
    which they have no gradient; PCEN's moving average, there a loop over the
    frames, is a matmul, and as slow as it is with frames of 10 ms; and its
    offset stays positive, whose root there is none of otherwise.

    Arguments
    ---------
    out_channels, kernel_size, sample_rate, pool : int
        Of the sinc layer and the pooling behind it.
    pcen : bool
        False: the logarithm in place of the learned compression.

    Example
    -------
    >>> LeafFeatures(8, 31, 16000, 3)(torch.randn(2, 200)).shape
    torch.Size([2, 8, 56])
    """

    def __init__(self, out_channels, kernel_size, sample_rate, pool, pcen=True):
        super().__init__(out_channels, kernel_size, sample_rate, pool)
        from speechbrain.lobes.features import Leaf

        with torch.device("cpu"):
            self.leaf = leaf = Leaf(
                out_channels,
                # Milliseconds, which it rounds down to samples.
                window_len=(kernel_size - 0.5) * 1000 / sample_rate,
                window_stride=(pool + 0.5) * 1000 / sample_rate,
                sample_rate=sample_rate,
                in_channels=1,
                use_pcen=pcen,
                use_legacy_complex=True,
                n_fft=2048,  # so that no mel filter is empty at the start
            )
            gabor = leaf.complex_conv
            with torch.no_grad():
                gabor.kernel.copy_(gabor._gabor_constraint(gabor.kernel))
        if pcen:
            frames = pool / (0.01 * sample_rate)
            leaf.compression.ema = _MovingAverage(leaf.compression.ema, frames)
            parametrize.register_parametrization(
                leaf.compression, "delta", _Positive()
            )

    @property
    def filter_parameters(self):
        """Centres and widths of the filters, ``[channels, 2]``."""
        return [self.leaf.complex_conv.kernel]

    def features(self, x):
        """See the base class."""
        # Its parts, because the compiler breaks the graph at its decorator.
        leaf = self.leaf
        x = leaf._squared_modulus_activation(leaf.complex_conv(x[:, None]))
        x = leaf.pooling(x).clamp(min=1e-5)
        x = leaf.compression(x) if leaf.compression else x.log()
        return x.transpose(1, 2)


class _Positive(nn.Module):
    """Keeps a parameter from 0, with a gradient wherever it is."""

    least = 0.01

    def forward(self, x):
        """Of the same shape."""
        return x.abs() + self.least

    def right_inverse(self, x):
        """What :meth:`forward` makes ``x`` of."""
        return x - self.least


class _MovingAverage(nn.Module):
    """SpeechBrain's ``ExponentialMovingAverage`` in blocks, by matmuls.

    Its coefficients are those of frames of which there are ``frames`` in one
    of ours.
    """

    block = 64

    def __init__(self, ema, frames):
        super().__init__()
        self._weights = ema._weights
        self.frames = frames

    def forward(self, x):
        """``[batch, channels, time]`` to the same shape."""
        time, size = x.shape[2], self.block
        ages = torch.arange(size + 1, device=x.device) * self.frames
        kept = (1 - self._weights.clamp(0, 1))[:, None] ** ages
        weights = (1 - kept[:, 1:2]) * kept[:, :-1]
        # [channels, size, size], a row for each value of a block, the last one
        # first. All terms are positive: nothing cancels.
        matrix = F.pad(weights, (size - 1, 0)).unfold(1, size, 1)
        state = x[:, :, 0]
        x = F.pad(x, (0, -time % size)).unflatten(2, (-1, size))
        values = x.flip(3).transpose(0, 1).flatten(1, 2) @ matrix
        values = values.unflatten(1, (len(x), -1)).transpose(0, 1)
        before = []
        for last in values[..., -1].unbind(2):
            before.append(state)
            state = last + state * kept[:, -1]
        values = values + torch.stack(before, 2)[..., None] * kept[:, None, 1:]
        return values.flatten(2)[:, :, :time]


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
