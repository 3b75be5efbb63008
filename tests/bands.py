"""Voices that anybody can tell apart, and a model that does.

A voice is noise in a band of its own, and the network's embedding of a window
is the loudness of the bands.
"""

import numpy as np
import torch

from amsincnet_sb.inference import SpeakerIdentifier, activity, listening
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.windowed import WindowedEmbedding

RATE, BANDS = 16000, 16


class Bands(WindowedEmbedding):
    """Loudness of each band."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.sample_rate, self.window, self.hop = RATE, 3200, 800
        self.embedding_size, self.fast = BANDS, False
        self.linears = torch.nn.ModuleList([torch.nn.Linear(1, 1)])

    def embed_windows(self, windows):
        """``[windows, window]`` to ``[windows, bands]``."""
        power = torch.fft.rfft(windows).abs().square()[:, 1:1601]
        return power.unflatten(1, (BANDS, -1)).mean(2).sqrt()


def by_energy(monkeypatch):
    """Speech is what is loud; no voice detector is needed."""
    monkeypatch.setattr(
        listening, "speech_detector", lambda rate, live: activity.Energy(rate)
    )


def model():
    """It knows the voices in the first four bands."""
    classifier = CosineClassifier(BANDS, 4)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(BANDS)[:4])
    names = ["ann", "bob", "cat", "dan"]
    return SpeakerIdentifier(Bands(), classifier, names, 30.0, own_cosine=0.9)


def voice(band, seconds, seed=0):
    """Noise in a band."""
    rng = np.random.default_rng([band, seed])
    spectrum = np.fft.rfft(rng.normal(size=int(seconds * RATE)))
    width = len(spectrum) / BANDS
    place = np.arange(len(spectrum)) // width == band
    wave = np.fft.irfft(spectrum * place, int(seconds * RATE))
    return 0.1 * wave / wave.std()


def conversation(*turns):
    """Band and seconds of each turn; None is a pause."""
    hiss = np.random.default_rng(1)
    parts = [
        np.zeros(int(seconds * RATE))
        if band is None
        else voice(band, seconds, i)
        for i, (band, seconds) in enumerate(turns)
    ]
    wave = np.concatenate(parts)
    return (wave + 1e-4 * hiss.normal(size=len(wave))).astype(np.float32)
