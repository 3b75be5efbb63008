"""Where speech begins and ends: a detector's word, and the energy's."""

from pathlib import Path

import numpy as np
import torch

__all__ = ["Spoken", "band_levels", "band_matrix", "features"]

WEIGHTS = Path(__file__).parents[1] / "data" / "activity.npz"
# A frame is told by the detector's logits and by levels in the frames from one
# to another around it.
LOGITS, LEVELS = (-3, 5), (-8, 5)
ABOVE = -2  # the feature that says how far speech is above the noise
NEAR, OFF_HERE = 8, 0.1  # nothing is speech so many frames from any chance
UNSURE = 2.2  # added to the logits where nothing else is known
BANDS, BAND = 20, (150, 6000)  # how many, from and to, in Hz
MOST = 30  # dB above the noise that count of a band
FEWEST = 30  # frames of pauses and of speech to learn from
MEMORY = 2000  # frames, where a recording comes in short pieces


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
    above = None  # dB of speech above the pauses, lately; None: not known yet

    def __init__(self, detector):
        self.detector, self.frame = detector, detector.frame
        # Frames that are looked at again.
        self._before = self.lag + max(NEAR, -LEVELS[0])
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
        ready = max(self._told, len(self._chances) - self.lag)
        found = self._probabilities(slice(self._told, ready))
        self._told += len(found)
        over = max(0, len(self._chances) - max(MEMORY, len(chances)))
        over = min(over, max(0, self._told - self._before))
        self._levels = self._levels[over:]
        self._chances = self._chances[over:]
        self._told -= over
        return found

    def _probabilities(self, frames):
        """Of some frames, by what was heard around them and before."""
        found = features(self._levels, self._chances)
        if found is None:
            return _sigmoid(_logit(self._chances[frames]) + UNSURE)
        self.above = float(10 * found[0, ABOVE])
        found = found[frames]
        for number, (weight, bias) in enumerate(self._layers):
            found = (found.clip(0) if number else found) @ weight.T + bias
        near = ~_inside(self._chances <= OFF_HERE, NEAR)
        return np.where(near[frames], _sigmoid(found[:, 0]), 0.0)


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


def features(levels, chances):
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


def _sigmoid(values):
    return torch.from_numpy(values).sigmoid().numpy()


def _around(values, first, last):
    """Values of frames from the ``first`` to the ``last`` around each."""
    padded = np.pad(values, (-first, last), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, len(values))


def _inside(which, frames):
    """Where so many frames on either side are like that too."""
    ones = np.ones(2 * frames + 1, int)
    return np.convolve(~which, ones)[frames : len(which) + frames] == 0
