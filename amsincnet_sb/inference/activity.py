"""Where there is speech: silero-vad and the energy, or the energy alone.

silero-vad (MIT licence) is a small network whose weights come with its
package; nothing is downloaded.
"""

import importlib.util
import logging
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from amsincnet_sb.inference.borders import Spoken

__all__ = [
    "ON",
    "OFF",
    "Energy",
    "Silero",
    "speech_detector",
    "stretches",
]

logger = logging.getLogger(__name__)

# Probabilities of speech at which a stretch may begin, and at which it ends.
ON, OFF = 0.7, 0.5
LEAST = 0.1  # seconds of a stretch, and of a pause
ROWS, WARM_UP = 16, 64  # parts of a recording at a time; frames before each


def speech_detector(sample_rate, live=False):
    """The best detector there is for a rate, in Hz."""
    if sample_rate in Silero.RATES:
        if importlib.util.find_spec("silero_vad"):
            return Spoken(Silero(sample_rate, live))
        logger.warning(
            "Note: speech is told from pauses by its energy alone, which music "
            "and noise have too; for a better way run pip install "
            "'amsincnet_sb[segments]'."
        )
    return Energy(sample_rate)


class Silero:
    """Probability of speech of each frame of 32 ms, by silero-vad.

    Of a file, sixteen parts are looked at side by side, each from two seconds
    before it on; ``live``, one frame after the other.
    """

    RATES = (8000, 16000)
    lag = 0

    def __init__(self, sample_rate, live=False):
        threads = torch.get_num_threads()
        with warnings.catch_warnings():
            # Of functions that it calls, and that are to go.
            warnings.filterwarnings("ignore", ".* is deprecated")
            import silero_vad

            self.net = silero_vad.load_silero_vad()
        torch.set_num_threads(threads)  # it sets one for the whole process
        self.rate, self.live = sample_rate, live
        self.frame = sample_rate * 512 // 16000
        self.net.reset_states()
        self._before = torch.zeros(WARM_UP * self.frame)

    @torch.no_grad()
    def __call__(self, wave):
        """Of whole frames ``[time]`` that go on where the last ones ended."""
        frames = len(wave) // self.frame
        if self.live:
            rows = wave.split(self.frame)
            found = [self.net(row[None], self.rate).item() for row in rows]
            return np.array(found, np.float32)
        per_row = -(-frames // ROWS)
        wave = torch.cat([self._before, wave])
        self._before = wave[-WARM_UP * self.frame :]
        wave = F.pad(wave, (0, (per_row * ROWS - frames) * self.frame))
        size = (per_row + WARM_UP) * self.frame
        rows = wave.unfold(0, size, per_row * self.frame)
        self.net.reset_states()
        found = [self.net(x, self.rate) for x in rows.split(self.frame, 1)]
        found = torch.cat(found[WARM_UP:], 1)
        return found.flatten()[:frames].numpy()


class Energy:
    """The same by the energy of a frame between those of pause and speech.

    They are the 5th and the 95th percentile of the last half minute. Where
    they are closer than 15 dB, everything that is not very quiet is speech.
    """

    MEMORY = 1000
    lag = 0
    above = None  # what is not speech is not known well enough

    def __init__(self, sample_rate):
        self.frame = sample_rate * 32 // 1000
        self._last = np.zeros(0, np.float32)

    def __call__(self, wave):
        """Of whole frames ``[time]``."""
        power = wave.unflatten(0, (-1, self.frame)).square().mean(1)
        level = 10 * np.log10(power.numpy() + 1e-9)
        kept = max(self.MEMORY, len(level))
        self._last = np.append(self._last, level)[-kept:]
        low, high = np.percentile(self._last, [5, 95])
        low, high = min(low, max(high - 15, -65)), max(high, -50)
        # From 0 to 1 over the middle third of the way from low to high.
        return ((level - low) / (high - low) * 3 - 0.2).clip(0, 1)


def stretches(probabilities, seconds):
    """Where there is speech: ``[(start, end)]``, in seconds.

    ``seconds`` are those of a frame.

    Example
    -------
    >>> stretches([0, 0.6, 0.9, 0.6, 0.6, 0.1, 0.6, 0.6, 0.6, 0], 0.1)
    [(0.1, 0.5)]
    """
    speech = np.asarray(probabilities) > OFF
    edges = np.diff(np.concatenate([[0], speech, [0]]).astype(int))
    found = []
    for a, b in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)):
        if max(probabilities[a:b]) > ON:
            start, end = (round(float(x) * seconds, 3) for x in (a, b))
            if found and start - found[-1][1] < LEAST:
                start = found.pop()[0]
            found.append((start, end))
    return [(a, b) for a, b in found if b - a > LEAST - 1e-6]
