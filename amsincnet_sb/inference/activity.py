"""Where there is speech: silero-vad and the energy, or the energy alone.

silero-vad (MIT licence) is a small network whose weights come with its
package; nothing is downloaded.
"""

import importlib.util
import logging
import warnings
from pathlib import Path

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
# A frame is told by silero-vad's logits and by levels in frames from one to
# another around it, and nothing is speech that the former does not hear within
# so many frames.
LOGITS, LEVELS = (-3, 5), (-8, 5)
NEAR, OFF_HERE = 8, 0.1
WEIGHTS = Path(__file__).parents[1] / "data" / "activity.npz"
BANDS, BAND = 20, (150, 6000)  # how many, from and to, in Hz
MOST = 30  # dB that a band is above the noise, of its level
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
    noise. Where it is sure, the levels of pauses and of speech are learnt, and a
    small network says from both what each frame is. Its weights come from
    ``tests/benchmarks/fit_activity.py``, which knows where clean voices begin
    and end in conversations with noise. Nothing is speech far from where the
    detector says so.

    Arguments
    ---------
    detector : Silero
        Frames of :attr:`frame` samples; these come :attr:`lag` frames later.
    """

    lag = LOGITS[1]

    def __init__(self, detector):
        self.detector, self.frame = detector, detector.frame
        self._before = self.lag + NEAR  # frames that are looked at again
        self._levels = np.zeros((0, BANDS))
        self._chances = np.zeros(0, np.float32)
        self._told = 0  # of these frames
        self._bands = band_matrix(detector.rate, self.frame)
        self._layers = _layers()

    def __call__(self, wave):
        """Of whole frames ``[time]`` that go on where the last ones ended."""
        chances = self.detector(wave)
        levels = band_levels(wave, self.frame, self._bands)
        self._levels = np.concatenate([self._levels, levels])
        self._chances = np.concatenate([self._chances, chances])
        found = _refined(self._levels, self._chances, self._layers)
        found = found[self._told : max(self._told, len(found) - self.lag)]
        self._told += len(found)
        over = max(0, len(self._chances) - max(MEMORY, len(chances)))
        over = min(over, max(0, self._told - self._before))
        self._levels = self._levels[over:]
        self._chances = self._chances[over:]
        self._told -= over
        return found


def band_levels(wave, frame, matrix):
    """In dB, ``[frames, BANDS]``, of whole frames ``[time]``."""
    rows = wave.unflatten(0, (-1, frame)) * torch.hann_window(frame)
    power = torch.fft.rfft(rows).abs().square() @ matrix
    return 10 * np.log10(power.numpy() + 1e-7)


def band_matrix(rate, frame):
    """Matrix from powers of a frame to their means in mel bands."""
    hertz = np.fft.rfftfreq(frame, 1 / rate)
    mel = np.log10(1 + np.array([*BAND, *hertz]) / 700)
    edges = np.linspace(*mel[:2], BANDS + 1)
    inside = (np.digitize(mel[2:], edges) - 1)[:, None] == np.arange(BANDS)
    return torch.tensor(inside / inside.sum(0).clip(1), dtype=torch.float32)


def _layers():
    """Weights and biases of the network."""
    with np.load(WEIGHTS) as file:
        return [
            tuple(
                file[f"{n}_{k}"].astype(np.float32) for k in ("weight", "bias")
            )
            for n in (0, 2, 4)
        ]


def _refined(levels, chances, layers):
    """Probabilities of speech, ``[frames]``, by levels ``[frames, bands]``."""
    found = evidence(levels, chances)
    if found is None:
        return _probability(_logit(chances) + UNSURE)
    for number, (weight, bias) in enumerate(layers):
        found = (found.clip(0) if number else found) @ weight.T + bias
    near = ~_inside(chances <= OFF_HERE, NEAR)
    return np.where(near, _probability(found[:, 0]), 0.0)


def evidence(levels, chances):
    """What the network is told of each frame, ``[frames, features]``.

    ``levels`` are ``[frames, bands]`` in dB and ``chances`` the detector's
    ``[frames]``. In it are logits and levels around a frame, levels above the
    noise's, and what is reached in speech and in pauses. None where too little
    of either has been heard to know them.
    """
    quiet, loud = _inside(chances < 0.1, 8), _inside(chances > 0.8, 3)
    if min(quiet.sum(), loud.sum()) < FEWEST:
        return None
    level = levels - np.median(levels[quiet], 0)
    level = level.clip(0, MOST).mean(1)
    reached = np.median(level[loud]), np.percentile(level[quiet], 90)
    columns = [
        *_around(_logit(chances) / 4, *LOGITS),
        *_around(level / 10, *LEVELS),
        *(np.full(len(level), value / 10) for value in reached),
    ]
    return np.stack(columns, 1).astype(np.float32)


def _logit(chances):
    chances = chances.clip(1e-3, 1 - 1e-3)
    return np.log(chances / (1 - chances))


def _probability(logit):
    return 1 / (1 + np.exp(-logit.clip(-30, 30)))


def _around(values, first, last):
    """Values of frames from the ``first`` to the ``last`` around each."""
    padded = np.pad(values, (-first, last), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, len(values))


def _inside(which, frames):
    """Where so many frames on either side are like that too."""
    ones = np.ones(2 * frames + 1, int)
    return np.convolve(~which, ones)[frames : len(which) + frames] == 0


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
