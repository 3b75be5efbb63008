"""What lies between a voice and a recording, drawn at random on the device.

Like :mod:`amsincnet_sb.nnet.augmentation`: each example gets a draw of its own
from torch's generator, shapes are fixed, and evaluation changes nothing. Here
is what adds to a signal or distorts it; linear channels are those of
:mod:`amsincnet_sb.nnet.responses` and :mod:`amsincnet_sb.nnet.rooms`, which
this module has as well.
"""

import torch
from torch import nn

from amsincnet_sb.nnet.augmentation import TINY, at_snr, checked, some, uniform
from amsincnet_sb.nnet.responses import (
    RandomBand,
    RandomBandwidth,
    RandomChannel,
    RandomDelay,
    RandomReverberation,
    frequencies,
)
from amsincnet_sb.nnet.rooms import RandomRoom

__all__ = [
    "RandomBabble",
    "RandomBand",
    "RandomBandwidth",
    "RandomChannel",
    "RandomClipping",
    "RandomDelay",
    "RandomModulatedNoise",
    "RandomNoise",
    "RandomReverberation",
    "RandomRoom",
]


class RandomNoise(nn.Module):
    """Stationary noise from white to brown.

    Its power density falls with frequency as ``f ** -slope`` above 40 Hz, the
    slope uniformly distributed from 0 (white) over 1 (pink) to ``max_slope``;
    its signal-to-noise ratio in dB, too.

    Arguments
    ---------
    probability : float
        That an example gets noise.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, in dB.
    max_slope : float
        Of the power density; 2 is brown noise.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> RandomNoise(probability=1.0)(torch.randn(4, 3200)).shape
    torch.Size([4, 3200])
    """

    def __init__(
        self,
        probability=0.5,
        snr_low=0.0,
        snr_high=30.0,
        max_slope=2.0,
        sample_rate=16000,
    ):
        super().__init__()
        checked(
            self, probability=(probability, 0, 1), max_slope=(max_slope, 0, 4)
        )
        self.snr_low, self.snr_high = snr_low, snr_high
        self.sample_rate = sample_rate

    def forward(self, wavs):
        """Add noise to waveforms ``[batch, time]``."""
        if not self.training or self.probability == 0:
            return wavs
        hz = frequencies(wavs, self.sample_rate).clamp(min=40.0) / 40.0
        slope = uniform(wavs, 0.0, self.max_slope)
        draw = torch.randn(len(wavs), len(hz), 2, device=wavs.device)
        shaped = draw * (hz ** (-slope / 2)).unsqueeze(2)
        shaped = torch.view_as_complex(shaped)
        noise = torch.fft.irfft(shaped, wavs.shape[1], norm="ortho")
        snr = uniform(wavs, self.snr_low, self.snr_high)
        noise = at_snr(noise, wavs, snr)
        return wavs + torch.where(some(wavs, self.probability), noise, 0.0)


class RandomBabble(nn.Module):
    """Many voices at once: others of the batch, added up.

    D. Snyder et al., "MUSAN: a music, speech, and noise corpus", 2015,
    https://arxiv.org/abs/1510.08484, has it as files.

    Arguments
    ---------
    probability : float
        That an example gets babble.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, in dB.
    voices : int
        How many others, each shifted in time.

    Example
    -------
    >>> RandomBabble(probability=1.0)(torch.randn(8, 3200)).shape
    torch.Size([8, 3200])
    """

    def __init__(self, probability=0.3, snr_low=3.0, snr_high=20.0, voices=6):
        super().__init__()
        checked(self, probability=(probability, 0, 1), voices=(voices, 1, 64))
        self.snr_low, self.snr_high = snr_low, snr_high

    def forward(self, wavs):
        """Add others to waveforms ``[batch, time]``."""
        if not self.training or self.probability == 0:
            return wavs
        batch, time = wavs.shape
        if batch < 2:  # there are no others
            return wavs
        # As loud as each other.
        level = wavs.square().mean(1, keepdim=True)
        even = wavs * (level + TINY).rsqrt()
        babble = sum(
            # In a small batch the same ones again, at other times.
            even.roll(
                (1 + (n - 1) % (batch - 1), n * time // (self.voices + 1)),
                (0, 1),
            )
            for n in range(1, self.voices + 1)
        )
        snr = uniform(wavs, self.snr_low, self.snr_high)
        babble = at_snr(babble, wavs, snr)
        return wavs + torch.where(some(wavs, self.probability), babble, 0.0)


class RandomModulatedNoise(nn.Module):
    """Noise in proportion to the signal, as coarse quantisation makes it.

    The modulated noise reference unit of ITU-T P.810, by which the distortion
    of codecs is described: ``y = x · (1 + 10 ** (-Q / 20) · n)`` with normal
    ``n`` and Q in dB uniformly distributed. µ-law has a Q of 35 or so, GSM 06.10
    one of 20.

    Arguments
    ---------
    probability : float
        That an example is distorted.
    q_low, q_high : float
        Range of Q, in dB.

    Example
    -------
    >>> RandomModulatedNoise(probability=1.0)(torch.zeros(1, 4))
    tensor([[0., 0., 0., 0.]])
    """

    def __init__(self, probability=0.3, q_low=5.0, q_high=30.0):
        super().__init__()
        checked(self, probability=(probability, 0, 1))
        self.q_low, self.q_high = q_low, q_high

    def forward(self, wavs):
        """Distort waveforms ``[batch, time]``."""
        if not self.training or self.probability == 0:
            return wavs
        gain = 10 ** (-uniform(wavs, self.q_low, self.q_high) / 20)
        gain = torch.where(some(wavs, self.probability), gain, 0.0)
        return wavs * (1 + gain * torch.randn_like(wavs))


class RandomClipping(nn.Module):
    """Peaks cut off, as by a recording level that was too high.

    Arguments
    ---------
    probability : float
        That an example is clipped.
    max_db : float
        Largest excess of the peak over where it is cut, in dB.

    Example
    -------
    >>> clip = RandomClipping(probability=1.0, max_db=6.0)
    >>> bool(0.5 < clip(torch.tensor([[0.1, -1.0, 0.3]])).abs().max() <= 1)
    True
    """

    def __init__(self, probability=0.1, max_db=15.0):
        super().__init__()
        checked(self, probability=(probability, 0, 1), max_db=(max_db, 0, 60))

    def forward(self, wavs):
        """Clip waveforms ``[batch, time]``."""
        if not self.training or self.probability == 0:
            return wavs
        excess = torch.where(
            some(wavs, self.probability),
            uniform(wavs, 0.0, self.max_db),
            0.0,
        )
        most = wavs.abs().amax(1, keepdim=True) * 10 ** (-excess / 20)
        return wavs.clamp(-most, most)
