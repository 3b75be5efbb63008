"""Conversations made of single utterances, and who speaks when in them.

A turn is a stretch of 0.5 to 6 s of one speaker's sentences, one after another
where one is too short; pauses of more than 0.3 s in sentences are shortened to
that. Turns follow each other at once (three in ten) or after a pause of up to
2 s; nobody speaks twice in a row, and nobody over another. Speakers have levels
of their own, and a quiet hiss lies under everything. Where a turn begins and
ends is said by the energy of the clean sentences alone: the first and the last
10 ms less than 25 dB below their loud parts. All that is random depends on the
seed.
"""

import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.dataio.audio import read_audio  # noqa: E402
from amsincnet_sb.dataio.manifest import read_manifest  # noqa: E402

__all__ = [
    "Conversation",
    "Turn",
    "coloured",
    "converse",
    "read_sentences",
    "speech_of",
]

HISS = 10 ** (-65 / 20)
LOUD = 10 ** (-24 / 20)  # mean level of a voice
SLOPES = {"white": 0, "pink": 1}  # of the power density
VOICES = 8  # of babble


class Turn(NamedTuple):
    """Seconds, and whose they are."""

    start: float
    end: float
    speaker: str


class Conversation(NamedTuple):
    """Samples ``[time]`` and the turns."""

    wave: np.ndarray
    turns: list


def speech_of(wave, rate):
    """Where a clean recording is loud enough, ``[stretches, 2]`` in samples.

    Pauses of up to 0.3 s are part of a stretch.
    """
    step = rate // 100
    frames = wave[: len(wave) // step * step].reshape(-1, step)
    level = 10 * np.log10((frames**2).mean(1) + 1e-10)
    level = np.convolve(level, np.ones(3) / 3, "same")
    low, high = np.percentile(level, [3, 95])
    active = np.flatnonzero(level > max(high - 25, low + 6))
    if not len(active):
        return np.zeros((0, 2), int)
    breaks = np.flatnonzero(np.diff(active) > 30)
    starts = active[np.r_[0, breaks + 1]]
    ends = active[np.r_[breaks, len(active) - 1]] + 1
    return np.stack([starts, ends], 1) * step


def converse(
    sentences, seed, speakers, rate=16000, minutes=(5, 10), noise=None, snr=10
):
    """One conversation.

    ``sentences`` has a list of waveforms ``[time]`` for each speaker of the
    ``speakers`` that take part. ``noise`` is "white", "pink" or "babble", eight
    of the others at a time, ``snr`` dB below the voices.
    """
    rng = np.random.default_rng([seed, 19])
    wanted = rng.uniform(*minutes) * 60
    gains = dict(zip(speakers, 10 ** (rng.uniform(-4, 4, len(speakers)) / 20)))
    talks = dict(zip(speakers, rng.uniform(0.3, 1, len(speakers))))
    parts, turns, now, last = [], [], 0, None
    while now < wanted * rate:
        pause = 0 if rng.random() < 0.3 else rng.uniform(0.1, 2)
        parts.append(np.zeros(int(pause * rate)))
        now += len(parts[-1])
        chances = np.array([talks[s] * (s != last) for s in speakers])
        last = speakers[rng.choice(len(speakers), p=chances / chances.sum())]
        samples = int(rng.uniform(0.5, 6) * rate)
        wave = _turn(sentences[last], rng, samples, rate)
        level = np.sqrt(np.mean(wave**2))
        parts.append(wave * gains[last] * LOUD / level)
        end = now + len(wave)
        turns.append(Turn(now / rate, end / rate, last))
        now = end
    wave = np.concatenate(parts)
    wave = wave + HISS * rng.standard_normal(len(wave))
    if noise is not None:
        others = [sentences[n] for n in sorted(sentences) if n not in speakers]
        if noise == "babble":
            made = _babble(rng, len(wave), [w for one in others for w in one])
        else:
            white = rng.standard_normal(len(wave))
            made = coloured(white, rate, SLOPES[noise])
            made = made / made.std()
        wave = wave + made * LOUD * 10 ** (-snr / 20)
    wave = wave / max(1, abs(wave).max() / 0.99)
    return Conversation(wave.astype(np.float32), turns)


def _turn(sentences, rng, samples, rate):
    """So many samples of a speaker's sentences, from anywhere in one on."""
    parts, pause = [], int(0.15 * rate)  # kept on either side of a long pause
    for number in rng.permutation(len(sentences)):
        wave = sentences[number]
        stretches = speech_of(wave, rate)
        for i, (start, end) in enumerate(stretches):
            start -= pause * (i > 0)
            end += pause * (i < len(stretches) - 1)
            parts.append(wave[start:end])
    wave = np.concatenate(parts)
    begin = rng.integers(max(1, len(wave) - samples + 1))
    wave = wave[begin : begin + samples]
    found = speech_of(wave, rate)  # it may begin or end in a pause
    if len(found):  # else it is as loud, or as soft, all through
        wave = wave[found[0, 0] : found[-1, 1]]
    ramp = np.minimum(1, np.arange(len(wave)) / (0.005 * rate))
    return wave * ramp * ramp[::-1]


def coloured(white, rate, slope):
    """White noise with a power density that falls as ``f ** -slope``."""
    hz = np.fft.rfftfreq(len(white), 1 / rate).clip(20)
    spectrum = np.fft.rfft(white) * hz ** (-slope / 2)
    return np.fft.irfft(spectrum, len(white))


def read_sentences(manifest, folder):
    """Speaker -> waveforms, of a manifest and its data folder."""
    rows = sorted(read_manifest(manifest), key=lambda row: row.spk_id)
    return {
        speaker: [
            read_audio(Path(folder, r.wav), r.start, r.stop).numpy()
            for r in rows
        ]
        for speaker, rows in itertools.groupby(rows, lambda row: row.spk_id)
    }


def _babble(rng, samples, sentences):
    """Several voices at a time, of power 1 together."""
    total = np.zeros(samples)
    for _ in range(VOICES):
        now = 0
        while now < samples:
            wave = sentences[rng.integers(len(sentences))]
            wave = (wave / wave.std())[: samples - now]
            total[now : now + len(wave)] += wave
            now += len(wave)
    return total / total.std()
