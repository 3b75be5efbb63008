"""Augmentation on the device, within a captured training step.

SpeechBrain's augmenters choose on the host what to do to a batch. These draw
for each example, on the device, from torch's generator alone, so that a step
can be captured and depends on its seed only. None changes anything in
evaluation.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "BandMask",
    "RandomEqualizer",
    "RandomMixture",
    "RandomSpeed",
    "at_snr",
]

POINTS = 9  # of a random frequency response: one per kHz at 16 kHz
TINY = 1e-9  # Silent noise gets a finite gain.


def at_snr(noise, wavs, snr_db):
    """Noise ``[batch, time]`` at a signal-to-noise ratio to waveforms.

    ``snr_db`` is ``[batch, 1]``; both powers are means over the whole length.

    Example
    -------
    >>> at_snr(torch.ones(1, 4), torch.ones(1, 4), torch.tensor([[20.0]]))
    tensor([[0.1000, 0.1000, 0.1000, 0.1000]])
    """
    power = wavs.square().mean(1, keepdim=True)
    own = noise.square().mean(1, keepdim=True) + TINY
    return noise * (power / own * 10 ** (-snr_db / 10)).sqrt()


def uniform(like, low, high):
    """Uniformly distributed, one for each example: ``[batch, 1]``."""
    draw = torch.rand(len(like), 1, device=like.device)
    return low + (high - low) * draw


def some(like, probability):
    """True for some examples: ``[batch, 1]``."""
    return torch.rand(len(like), 1, device=like.device) < probability


def checked(module, **ranges):
    """Keep the arguments of a module; refuse those out of range."""
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ValueError(
                f"{type(module).__name__}: {name} is {value} but must lie "
                f"between {low} and {high}."
            )
        setattr(module, name, value)


def checked_ranges(module, **ranges):
    """Keep arguments that are ranges themselves; refuse others."""
    for name, (pair, low, high) in ranges.items():
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise ValueError(
                f"{type(module).__name__}: {name} is {pair} but must be a range "
                f"between {low} and {high}."
            )
        setattr(module, name, tuple(pair))


class RandomEqualizer(nn.Module):
    """Random smooth frequency response for each example.

    Imitates another microphone, room or distance: a gain that is normally
    distributed in dB at equally spaced points from 0 to half the sample rate,
    and linear between them.

    Arguments
    ---------
    std_db : float
        Standard deviation of the gain, in dB.

    Example
    -------
    >>> equalize = RandomEqualizer(std_db=3.0)
    >>> wavs = torch.randn(4, 3200)
    >>> equalize(wavs).shape, torch.equal(equalize.eval()(wavs), wavs)
    (torch.Size([4, 3200]), True)
    """

    def __init__(self, std_db=3.0):
        super().__init__()
        if std_db < 0:
            raise ValueError(
                f"RandomEqualizer: std_db is {std_db} but must not be negative."
            )
        self.std_db = std_db

    def forward(self, wavs):
        """Filter waveforms ``[batch, time]``."""
        if not self.training or self.std_db == 0:
            return wavs
        log_gain, _ = self.response(wavs)
        spectrum = torch.fft.rfft(wavs) * log_gain.exp()
        return torch.fft.irfft(spectrum, wavs.shape[1])

    def response(self, wavs):
        """See :class:`amsincnet_sb.nnet.responses.RandomChannel`."""
        gain = self.std_db * torch.randn(
            len(wavs), 1, POINTS, device=wavs.device, dtype=wavs.dtype
        )
        bins = wavs.shape[1] // 2 + 1
        gain = F.interpolate(gain, bins, mode="linear", align_corners=True)
        return gain.squeeze(1) * (math.log(10) / 20), 0.0


class RandomMixture(nn.Module):
    """Another speaker of the batch in the background.

    Some examples get the previous example of the batch added, at a random
    signal-to-noise ratio; their labels stay.

    Arguments
    ---------
    probability : float
        That an example is mixed.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, in dB.

    Example
    -------
    >>> RandomMixture(probability=1.0)(torch.randn(4, 3200)).shape
    torch.Size([4, 3200])
    """

    def __init__(self, probability=0.3, snr_low=5.0, snr_high=25.0):
        super().__init__()
        checked(self, probability=(probability, 0, 1))
        self.snr_low, self.snr_high = snr_low, snr_high

    def forward(self, wavs):
        """Mix waveforms ``[batch, time]``."""
        if not self.training or self.probability == 0:
            return wavs
        others = wavs.roll(1, 0)
        draw = torch.rand(2, len(wavs), 1, device=wavs.device)
        snr = self.snr_low + (self.snr_high - self.snr_low) * draw[0]
        background = at_snr(others, wavs, snr)
        return wavs + torch.where(draw[1] < self.probability, background, 0.0)


class RandomSpeed(nn.Module):
    """A little faster and higher, or slower and lower, about the middle.

    T. Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
    Whoever is heard stays the same: up to 6 % is not more than a voice differs
    from one sentence to the next. Between samples it is interpolated by
    band-limited impulses of 16 samples; what a faster example lacks at its ends
    is mirrored.

    Arguments
    ---------
    max_change : float
        Largest change of the speed, at most 0.5; changes are uniformly
        distributed.
    probability : float
        That an example is changed.

    Example
    -------
    >>> RandomSpeed(0.06)(torch.randn(4, 3200)).shape
    torch.Size([4, 3200])
    """

    taps = 16

    def __init__(self, max_change=0.06, probability=1.0):
        super().__init__()
        checked(
            self,
            max_change=(max_change, 0, 0.5),
            probability=(probability, 0, 1),
        )

    def forward(self, wavs):
        """Stretch or shorten waveforms ``[batch, time]``."""
        if not self.training or self.max_change * self.probability == 0:
            return wavs
        change = uniform(wavs, -self.max_change, self.max_change)
        change = torch.where(some(wavs, self.probability), change, 0.0)
        last = wavs.shape[1] - 1
        at = torch.arange(last + 1, device=wavs.device)
        # From where a sample is to where it is taken from.
        way = change * (at - last / 2)
        whole = way.floor()
        half = self.taps // 2
        beyond = math.ceil(self.max_change * last / 2) + half
        mirrored = torch.arange(-beyond, last + beyond + 1, device=wavs.device)
        mirrored = last - (last - mirrored.abs()).abs()
        wavs = wavs[:, mirrored.clamp(0, last)]
        first = at + whole.long() + (beyond - half + 1)
        out = 0.0
        for tap, weight in enumerate(self._impulse(way - whole)):
            out = out + wavs[:, tap:].gather(1, first) * weight
        return out

    def _impulse(self, part):
        """Weights of neighbours, for a place a part of a sample on.

        A sinc in a Hann window; sines of sums are made of two sines each.
        """
        half = self.taps // 2
        sine = (math.pi * part).sin() / math.pi
        wide = math.pi / half * part
        even, odd = 0.5 * wide.cos(), 0.5 * wide.sin()
        for tap in range(1 - half, half + 1):
            angle = math.pi / half * tap
            window = 0.5 + even * math.cos(angle) + odd * math.sin(angle)
            if tap in (0, 1):  # where it may divide by zero
                sinc = torch.sinc(part - tap)
            else:
                sinc = (-1) ** tap * sine / (part - tap)
            yield sinc * window


class BandMask(nn.Module):
    """Frequency masking: sets some neighbouring channels of each example to 0.

    D. Park et al., "SpecAugment", Interspeech 2019,
    https://arxiv.org/abs/1904.08779. ``max_width`` is the most channels that
    are masked; the number is uniformly distributed.
    """

    def __init__(self, max_width):
        super().__init__()
        if max_width < 0:
            raise ValueError(
                f"BandMask: max_width is {max_width} but must not be negative."
            )
        self.max_width = max_width

    def forward(self, x):
        """Mask feature maps ``[batch, time, channels]``."""
        return self.masked(x, self.draw(len(x), x.shape[2], x.device))

    @staticmethod
    def masked(x, keep):
        """Feature maps with those channels of :meth:`draw` alone."""
        # On a CPU a product is far faster than a choice.
        return x if keep is None else x * keep.unsqueeze(1).to(x.dtype)

    def draw(self, batch, channels, device):
        """Channels to keep, ``[batch, channels]``, bool; None if all are.

        For a layer that masks by itself.
        """
        if not self.training or self.max_width == 0:
            return None
        draw = torch.rand(2, batch, 1, device=device)
        width = (draw[0] * (min(self.max_width, channels) + 1)).floor()
        first = (draw[1] * (channels - width + 1)).floor()
        at = torch.arange(channels, device=device)
        return (at < first) | (at >= first + width)
