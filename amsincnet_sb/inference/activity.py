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

__all__ = [
    "ON",
    "OFF",
    "Energy",
    "Silero",
    "Spoken",
    "speech_detector",
    "stretches",
]

logger = logging.getLogger(__name__)

# Probabilities of speech at which a stretch may begin, and at which it ends.
ON, OFF = 0.7, 0.5
LEAST = 0.1  # seconds of a stretch, and of a pause
UNSURE = 2.2  # added to logits of silero-vad where nothing else is known
# Weights of 1, of silero-vad's logit and of the energy's, fitted on
# conversations in quiet and with noise 10 dB below; frames that the former is
# late by, and how far from its speech the latter may find some.
WEIGHTS = (1.9, 0.28, 0.76)
LATE, NEAR, OFF_HERE = 4, 8, 0.1
BANDS, BAND = 20, (150, 6000)  # how many, from and to, in Hz
FEWEST = 30  # frames of pauses and of speech to learn from
MEMORY = 2000  # frames, where a recording comes in short pieces
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


class Spoken:
    """A detector's probabilities with the borders where the energy has them.

    silero-vad hears speech begin and end some frames late, the more so in
    noise. Where it is sure, energies of pauses and of speech are learnt, and
    how much more probable each is in speech: a frame's logit is a weighted
    sum of that and of the detector's, and nothing is speech far from where
    the detector says so.

    Arguments
    ---------
    detector : Silero
        Frames of :attr:`frame` samples; these come :attr:`lag` frames later.
    """

    lag = LATE + 1

    def __init__(self, detector):
        self.detector, self.frame = detector, detector.frame
        self._before = self.lag + NEAR  # frames that are looked at again
        self._levels = np.zeros((0, BANDS))
        self._chances = np.zeros(0, np.float32)
        self._told = 0  # of these frames
        self._bands = _bands(detector.rate, self.frame)

    def __call__(self, wave):
        """Of whole frames ``[time]`` that go on where the last ones ended."""
        chances = self.detector(wave)
        rows = wave.unflatten(0, (-1, self.frame)) * torch.hann_window(
            self.frame
        )
        power = torch.fft.rfft(rows).abs().square() @ self._bands
        levels = 10 * np.log10(power.numpy() + 1e-7)
        self._levels = np.concatenate([self._levels, levels])
        self._chances = np.concatenate([self._chances, chances])
        found = _refined(self._levels, self._chances)
        found = found[self._told : max(self._told, len(found) - self.lag)]
        self._told += len(found)
        over = max(0, len(self._chances) - max(MEMORY, len(chances)))
        over = min(over, max(0, self._told - self._before))
        self._levels = self._levels[over:]
        self._chances = self._chances[over:]
        self._told -= over
        return found


def _bands(rate, frame):
    """Matrix from powers of a frame to their means in mel bands."""
    hertz = np.fft.rfftfreq(frame, 1 / rate)
    mel = np.log10(1 + np.array([*BAND, *hertz]) / 700)
    edges = np.linspace(*mel[:2], BANDS + 1)
    inside = (np.digitize(mel[2:], edges) - 1)[:, None] == np.arange(BANDS)
    return torch.tensor(inside / inside.sum(0).clip(1), dtype=torch.float32)


def _refined(levels, chances):
    """Probabilities of speech, ``[frames]``, by levels ``[frames, bands]``."""
    logit = np.log(chances.clip(1e-3, 1 - 1e-3) / (1 - chances).clip(1e-3))
    quiet = _inside(chances < 0.1, 8)
    loud = _inside(chances > 0.8, 3)
    if min(quiet.sum(), loud.sum()) < FEWEST:
        return 1 / (1 + np.exp(-logit - UNSURE))
    level = levels - np.median(levels[quiet], 0)
    level = level.clip(0, 30).mean(1)
    edges = np.linspace(*np.percentile(level, [0.1, 99.9]), 41)
    log_share = []
    for which in (quiet, loud):
        share = np.histogram(level[which], edges)[0] + 0.3
        share = np.convolve(share, np.ones(5) / 5, "same")
        log_share.append(np.log(share / share.sum()))
    ratio = (log_share[1] - log_share[0]).clip(-5, 5)
    ratio = ratio[np.digitize(level, edges[1:-1])]
    logit = np.pad(logit, (1, LATE + 1), mode="edge")[LATE:]
    parts = _mean(logit, 3), _mean(np.pad(ratio, 1, mode="edge"), 3)
    found = WEIGHTS[0] + WEIGHTS[1] * parts[0] + WEIGHTS[2] * parts[1]
    near = ~_inside(chances <= OFF_HERE, NEAR)
    return np.where(near, 1 / (1 + np.exp(-found)), 0.0)


def _inside(which, frames):
    """Where so many frames on either side are like that too."""
    ones = np.ones(2 * frames + 1, int)
    return np.convolve(~which, ones)[frames : len(which) + frames] == 0


def _mean(values, frames):
    """Over so many frames from each on, of those that have them."""
    return np.convolve(values, np.ones(frames) / frames, "valid")


class Energy:
    """The same by the energy of a frame between those of pause and speech.

    They are the 5th and the 95th percentile of the last half minute. Where
    they are closer than 15 dB, everything that is not very quiet is speech.
    """

    MEMORY = 1000
    lag = 0

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
