"""Linear channels as random frequency responses.

A response is the logarithm of a gain, and a phase. A chunk is taken as one
period of its signal, so that the reverberation of its end stands for that of
the speech before it. :class:`RandomChannel` applies several responses in one
Fourier transform.
"""

import math

import torch
from torch import nn

from amsincnet_sb.nnet.augmentation import (
    TINY,
    checked,
    checked_ranges,
    some,
    uniform,
)

__all__ = [
    "RandomBand",
    "RandomBandwidth",
    "RandomChannel",
    "RandomDelay",
    "RandomReverberation",
]


def frequencies(wavs, sample_rate):
    """Of the bins of a real Fourier transform, in Hz."""
    bins = torch.arange(wavs.shape[1] // 2 + 1, device=wavs.device)
    return bins * (sample_rate / wavs.shape[1])


class RandomBand(nn.Module):
    """A band like a telephone's or a preamplifier's, with its phase.

    High-pass and low-pass filters of second-order sections, ``s² / (s² + s ·
    w / Q + w²)`` and ``w² / (s² + s · w / Q + w²)`` at the edges ``w``, as
    analogue filters have them: causal, and of minimum phase. Edges are
    uniformly distributed on a logarithmic scale, the number of sections and Q
    (from 0.5 to 1.4, where Butterworth's are) uniformly.

    Arguments
    ---------
    probability : float
        That an example is limited.
    low_hz : tuple of float
        Range of the lower edge, in Hz.
    high_hz : tuple of float
        Range of the upper edge, in Hz.
    sections : int
        At most so many for each edge.
    sample_rate : int
        In Hz.
    """

    def __init__(
        self,
        probability=0.4,
        low_hz=(20.0, 500.0),
        high_hz=(2500.0, 7800.0),
        sections=4,
        sample_rate=16000,
    ):
        super().__init__()
        checked(
            self, probability=(probability, 0, 1), sections=(sections, 1, 20)
        )
        hertz = (1.0, 1e6)
        checked_ranges(self, low_hz=(low_hz, *hertz), high_hz=(high_hz, *hertz))
        self.sample_rate = sample_rate

    def response(self, wavs):
        """See :class:`RandomChannel`."""
        hz = frequencies(wavs, self.sample_rate) + 1e-3
        limited = some(wavs, self.probability)
        low = uniform(wavs, *map(math.log, self.low_hz)).exp() / hz
        high = hz / uniform(wavs, *map(math.log, self.high_hz)).exp()
        (gain, phase), (more, later) = (
            self._cascade(x, limited) for x in (-low, high)
        )
        return gain + more, phase + later

    def _cascade(self, x, limited):
        """Low-pass sections at ``x``, the frequency relative to the edge.

        At minus its inverse they are those of a high-pass.
        """
        count = uniform(x, 1.0, self.sections + 1.0).floor()
        gain = phase = 0.0
        for section in range(self.sections):
            real = 1 - x.square()
            imag = x / uniform(x, 0.5, 1.4)
            there = limited & (section < count)
            square = real.square() + imag.square()
            gain = gain - torch.where(there, square.log() / 2, 0.0)
            phase = phase - torch.where(there, torch.atan2(imag, real), 0.0)
        return gain, phase


class RandomBandwidth(nn.Module):
    """An upper limit that is steep, as a lower sample rate or a codec has it.

    Without phase; the limit is uniformly distributed on a logarithmic scale.

    Arguments
    ---------
    probability : float
        That an example is limited.
    high_hz : tuple of float
        Range of the limit, in Hz.
    slope_hz : float
        Over which the gain falls from 1 to 0, in Hz.
    sample_rate : int
        In Hz.
    """

    def __init__(
        self,
        probability=0.3,
        high_hz=(3300.0, 7800.0),
        slope_hz=200.0,
        sample_rate=16000,
    ):
        super().__init__()
        checked(
            self,
            probability=(probability, 0, 1),
            slope_hz=(slope_hz, 1, sample_rate),
        )
        checked_ranges(self, high_hz=(high_hz, 1.0, 1e6))
        self.sample_rate = sample_rate

    def response(self, wavs):
        """See :class:`RandomChannel`."""
        hz = frequencies(wavs, self.sample_rate)
        edge = uniform(wavs, *map(math.log, self.high_hz)).exp()
        gain = ((edge - hz) / self.slope_hz + 0.5).clamp(1e-4, 1.0).log()
        return torch.where(some(wavs, self.probability), gain, 0.0), 0.0


class RandomDelay(nn.Module):
    """A group delay that varies smoothly with frequency.

    Analogue filters, loudspeakers and small rooms delay frequencies
    differently, by a cycle or so. Nobody hears it, but rectified outputs of
    narrow filters keep the timing between bands. The delay is normally
    distributed at points that are equally spaced in ``log(1 + f / 300 Hz)``,
    and linear between them; its standard deviation is uniformly distributed
    up to ``cycles`` of each frequency and ``max_ms``.

    Arguments
    ---------
    probability : float
        That an example is delayed.
    cycles, max_ms : float
        Largest standard deviation, in cycles and in milliseconds.
    points : int
        Frequencies at which it is drawn.
    sample_rate : int
        In Hz.
    """

    def __init__(
        self,
        probability=0.5,
        cycles=1.0,
        max_ms=4.0,
        points=24,
        sample_rate=16000,
    ):
        super().__init__()
        checked(
            self,
            probability=(probability, 0, 1),
            cycles=(cycles, 0, 100),
            max_ms=(max_ms, 0, 100),
            points=(points, 2, 1000),
        )
        self.sample_rate = sample_rate

    def response(self, wavs):
        """See :class:`RandomChannel`."""
        hz = frequencies(wavs, self.sample_rate)
        place = (1 + hz / 300.0).log()
        # Of a single sample, the only frequency is 0.
        place = place / place[-1].clamp(min=1e-9) * (self.points - 1)
        nodes = torch.arange(self.points, device=wavs.device)
        between = (1 - (place - nodes[:, None]).abs()).clamp(min=0)
        most = (self.cycles / hz.clamp(min=1.0)).clamp(max=self.max_ms / 1000)
        gain = torch.where(
            some(wavs, self.probability), uniform(wavs, 0.0, 1.0), 0.0
        )
        delay = gain * torch.randn(len(wavs), self.points, device=wavs.device)
        # Group delay is minus the derivative of the phase.
        step_hz = self.sample_rate / wavs.shape[1]
        slope = (between * most).cumsum(1) * (-2 * math.pi * step_hz)
        return 0.0, delay @ slope


class RandomReverberation(nn.Module):
    """A room: direct sound and noise that decays exponentially.

    J. Polack's model of diffuse reverberation (1988): normal noise times
    ``10 ** (-3 · t / RT60)``, RT60 the time in which it falls by 60 dB, from
    2 ms behind the direct sound on, at a direct-to-reverberant ratio. Before
    ``dense`` it is single reflections, the rarer and the stronger the earlier
    they are: their number per second grows with ``t²``.

    Arguments
    ---------
    probability : float
        That an example is in a room.
    rt60 : tuple of float
        Range of the reverberation time, in seconds.
    ratio_db : tuple of float
        Range of the direct-to-reverberant ratio, in dB.
    dense : tuple of float
        Range of the time at which every sample has a reflection, in seconds.
    sample_rate : int
        In Hz.
    """

    def __init__(
        self,
        probability=0.4,
        rt60=(0.1, 1.0),
        ratio_db=(-12.0, 12.0),
        dense=(0.01, 0.06),
        sample_rate=16000,
    ):
        super().__init__()
        checked(self, probability=(probability, 0, 1))
        checked_ranges(
            self,
            rt60=(rt60, 0.01, 100.0),
            ratio_db=(ratio_db, -100.0, 100.0),
            dense=(dense, 1e-4, 10.0),
        )
        self.sample_rate = sample_rate

    def response(self, wavs):
        """See :class:`RandomChannel`."""
        t = torch.arange(wavs.shape[1], device=wavs.device) / self.sample_rate
        dense = uniform(wavs, *self.dense)
        share = (t / dense).square().clamp(1e-4, 1.0)
        there = (t > 0.002) & (torch.rand_like(wavs) < share)
        decay = torch.exp(-math.log(1000) * t / uniform(wavs, *self.rt60))
        tail = torch.randn_like(wavs) * decay * share.rsqrt()
        tail = torch.where(there, tail, 0.0)
        tail = tail * (tail.square().sum(1, keepdim=True) + TINY).rsqrt()
        gain = 10 ** (-uniform(wavs, *self.ratio_db) / 20)
        gain = torch.where(some(wavs, self.probability), gain, 0.0)
        tail = torch.view_as_real(torch.fft.rfft(gain * tail))
        real, imag = 1 + tail[..., 0], tail[..., 1]
        square = real.square() + imag.square()
        return (square + TINY).log() / 2, torch.atan2(imag, real)


class RandomChannel(nn.Module):
    """Several responses at once, in one Fourier transform.

    Arguments
    ---------
    responses : sequence
        Objects with ``response(wavs)``, which returns the natural logarithm
        of the gain and the phase for waveforms ``[batch, time]``, each
        ``[batch, time // 2 + 1]`` or 0.0: :class:`RandomBand`,
        :class:`RandomBandwidth`, :class:`RandomDelay`,
        :class:`RandomReverberation`,
        :class:`amsincnet_sb.nnet.rooms.RandomRoom`,
        :class:`amsincnet_sb.nnet.augmentation.RandomEqualizer`.

    Example
    -------
    >>> channel = RandomChannel([RandomReverberation(), RandomBand()])
    >>> wavs = torch.randn(4, 3200)
    >>> channel(wavs).shape, torch.equal(channel.eval()(wavs), wavs)
    (torch.Size([4, 3200]), True)
    """

    def __init__(self, responses):
        super().__init__()
        self.responses = nn.ModuleList(responses)

    def forward(self, wavs):
        """Filter waveforms ``[batch, time]``."""
        if not self.training or not len(self.responses):
            return wavs
        # In real numbers, which the compiler makes one kernel of.
        spectrum = torch.view_as_real(torch.fft.rfft(wavs))
        real, imag = spectrum[..., 0], spectrum[..., 1]
        log_gain = phase = torch.zeros_like(real)
        for each in self.responses:
            more, later = each.response(wavs)
            log_gain, phase = log_gain + more, phase + later
        gain = log_gain.exp()
        cos, sin = gain * phase.cos(), gain * phase.sin()
        spectrum = torch.stack(
            (real * cos - imag * sin, real * sin + imag * cos), -1
        )
        return torch.fft.irfft(torch.view_as_complex(spectrum), wavs.shape[1])
