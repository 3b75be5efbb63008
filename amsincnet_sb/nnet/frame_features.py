"""Features in the place of the sinc layer, its pooling and its logarithm.

Modules that map normalised windows ``[windows, time]`` to ``[windows, channels,
(time - taps + 1) // pool]``, in float32. SpeechBrain's, with a frame where our
filters have a pool.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LeafFeatures", "MelFeatures"]

LARGEST = 2**22  # taps of all filters together


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
            leaf.compression = _Compression(leaf.compression, frames)

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


class _Compression(nn.Module):
    """SpeechBrain's ``PCEN`` with an offset that stays positive.

    Its own can fall below 0, whose root there is none of. Y. Wang et al.,
    "Trainable frontend for robust and far-field keyword spotting", ICASSP 2017.
    """

    least = 0.01

    def __init__(self, pcen, frames):
        super().__init__()
        self.alpha, self.delta, self.root = pcen.alpha, pcen.delta, pcen.root
        self.floor = pcen._floor
        self.ema = _MovingAverage(pcen.ema, frames)

    def forward(self, x):
        """``[batch, channels, time]`` to the same shape."""
        gain = (self.floor + self.ema(x)) ** -self.alpha.clamp(max=1)[:, None]
        offset = self.delta.clamp(min=self.least)[:, None]
        root = 1 / self.root.clamp(min=1)[:, None]
        return (x * gain + offset) ** root - offset**root


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
