"""Augmentation on the device, as part of a recorded training step.

SpeechBrain's augmenters choose on the host what to do to a batch; these
choose for each example, on the device, from torch's generator alone, so that
a step stays a function of its number and waits for nothing.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["BandMask", "RandomEqualizer", "RandomMixture"]


class RandomEqualizer(nn.Module):
    """Another frequency response for every example.

    A smooth gain over frequency: normally distributed in dB at equally spaced
    points from 0 to half the sample rate, linear between them; what another
    microphone, room or distance does to a spectrum. Evaluation changes
    nothing.

    Arguments
    ---------
    std_db : float
        Standard deviation of the gain, in dB.
    points : int
        Number of points, at least 2.

    Example
    -------
    >>> equalize = RandomEqualizer(std_db=3.0)
    >>> wavs = torch.randn(4, 3200)
    >>> equalize(wavs).shape, torch.equal(equalize.eval()(wavs), wavs)
    (torch.Size([4, 3200]), True)
    """

    def __init__(self, std_db=3.0, points=9):
        super().__init__()
        if std_db < 0 or points < 2:
            raise ValueError(
                f"RandomEqualizer: std_db is {std_db} and points is {points} "
                "but must be at least 0 and 2."
            )
        self.std_db = std_db
        self.points = points

    def forward(self, wavs):
        """Filter waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            ``[batch, time]``.

        Returns
        -------
        torch.Tensor
            The same shape.
        """
        if not self.training or self.std_db == 0:
            return wavs
        spectrum = torch.fft.rfft(wavs)
        gain = self.std_db * torch.randn(
            len(wavs), 1, self.points, device=wavs.device, dtype=wavs.dtype
        )
        gain = F.interpolate(
            gain, spectrum.shape[1], mode="linear", align_corners=True
        )
        gain = torch.exp(gain.squeeze(1) * (2.302585092994046 / 20))
        return torch.fft.irfft(spectrum * gain, wavs.shape[1])

    def extra_repr(self):
        """What ``print(module)`` shows."""
        return f"std_db={self.std_db}, points={self.points}"


class RandomMixture(nn.Module):
    """Another speaker of the batch in the background.

    Some examples get the next example of the batch added, at a random
    signal-to-noise ratio; the label stays. Evaluation changes nothing.

    Arguments
    ---------
    probability : float
        Of an example to be mixed.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, in dB.

    Example
    -------
    >>> mix = RandomMixture(probability=1.0)
    >>> mix(torch.randn(4, 3200)).shape
    torch.Size([4, 3200])
    """

    def __init__(self, probability=0.3, snr_low=5.0, snr_high=25.0):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(
                f"RandomMixture: probability is {probability} but must lie "
                "between 0 and 1."
            )
        self.probability = probability
        self.snr_low = snr_low
        self.snr_high = snr_high

    def forward(self, wavs):
        """Mix waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            ``[batch, time]``.

        Returns
        -------
        torch.Tensor
            The same shape.
        """
        if not self.training or self.probability == 0:
            return wavs
        others = wavs.roll(1, 0)
        draw = torch.rand(2, len(wavs), 1, device=wavs.device)
        snr = self.snr_low + (self.snr_high - self.snr_low) * draw[0]
        # Silence stays silent and is not blown up.
        tiny = 1e-9
        power = wavs.square().mean(1, keepdim=True)
        noise = others.square().mean(1, keepdim=True) + tiny
        gain = (power / noise * 10 ** (-snr / 10)).sqrt()
        gain = torch.where(draw[1] < self.probability, gain, 0.0)
        return wavs + gain * others

    def extra_repr(self):
        """What ``print(module)`` shows."""
        return (
            f"probability={self.probability}, "
            f"snr={self.snr_low:g}..{self.snr_high:g} dB"
        )


class BandMask(nn.Module):
    """Silences some neighbouring channels of every example.

    The frequency masking of D. Park et al., "SpecAugment", Interspeech 2019,
    https://arxiv.org/abs/1904.08779. Evaluation changes nothing.

    Arguments
    ---------
    max_width : int
        Channels masked: from 0 to this many, uniformly.

    Example
    -------
    >>> mask = BandMask(max_width=20)
    >>> mask(torch.ones(2, 7, 80)).shape
    torch.Size([2, 7, 80])
    """

    def __init__(self, max_width):
        super().__init__()
        if max_width < 0:
            raise ValueError(
                f"BandMask: max_width is {max_width} but must not be negative."
            )
        self.max_width = max_width

    def forward(self, x):
        """Mask maps.

        Arguments
        ---------
        x : torch.Tensor
            ``[batch, time, channels]``.

        Returns
        -------
        torch.Tensor
            The same shape.
        """
        keep = self.draw(len(x), x.shape[2], x.device)
        return x if keep is None else torch.where(keep.unsqueeze(1), x, 0.0)

    def draw(self, batch, channels, device):
        """Which channels stay, for a layer that does the rest itself.

        Arguments
        ---------
        batch : int
            Examples.
        channels : int
            Of each.
        device : torch.device
            Where to draw.

        Returns
        -------
        torch.Tensor or None
            ``[batch, channels]``, bool; None if all do.
        """
        if not self.training or self.max_width == 0:
            return None
        draw = torch.rand(2, batch, 1, device=device)
        width = (draw[0] * (min(self.max_width, channels) + 1)).floor()
        first = (draw[1] * (channels - width + 1)).floor()
        at = torch.arange(channels, device=device)
        return (at < first) | (at >= first + width)

    def extra_repr(self):
        """What ``print(module)`` shows."""
        return f"max_width={self.max_width}"
