"""Generated speech-like sentences in TIMIT's layout, for demos and tests.

No recording is involved: a source-filter synthesiser (a polynomial glottal
pulse, a cascade of time-varying formants, shaped noise) speaks sentences of
a small grammar with voices drawn at random. Speakers differ as people do,
in pitch, vocal-tract length, formants, voice quality and rate; sentences of
a speaker differ in text, intonation, effort, channel and background noise.
Accuracies on this corpus say that code works, and nothing about speech.

References
----------
Klatt, "Software for a cascade/parallel formant synthesizer", JASA 1980;
Klatt & Klatt, "Analysis, synthesis, and perception of voice quality
variations among female and male talkers", JASA 1990; vowel formants after
Peterson & Barney, "Control methods used in a study of the vowels", JASA 1952.
"""

import functools
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile
from tqdm import tqdm

from amsincnet_sb.utils.errors import InputError

__all__ = [
    "Sentence",
    "Voice",
    "generate_demo_corpus",
    "make_voice",
    "sentence_words",
    "speak",
]

# A change of any sample must change this, so that corpora are not mixed.
VERSION = 1
README = "README.TXT"
UNFINISHED = "UNFINISHED"

SAMPLE_RATE = 16000
MAX_SPEAKERS = 26**3
SA_NUMBERS = range(1, 3)
SX_NUMBERS = range(3, 453)
SI_NUMBERS = range(453, 2343)

HOP = 128
FFT_SIZE = 8 * HOP
FREQUENCIES = np.arange(FFT_SIZE // 2 + 1) * SAMPLE_RATE / FFT_SIZE

# First number of every random stream, so that no two streams coincide.
TEXT_STREAM, VOICE_STREAM, CHOICE_STREAM, SENTENCE_STREAM = 1, 2, 3, 4

PRONUNCIATIONS = {
    "determiner": """the=dh-ax this=dh-ih-s that=dh-ae-t my=m-ay
        your=y-ao-r his=hh-ih-z her=hh-er our=aw-er every=eh-v-r-iy
        another=ax-n-ah-dh-er""",
    "adjective": """old=ow-l-d small=s-m-ao-l big=b-ih-g red=r-eh-d
        green=g-r-iy-n blue=b-l-uw yellow=y-eh-l-ow heavy=hh-eh-v-iy
        quiet=k-w-ay-ax-t happy=hh-ae-p-iy young=y-ah-ng rich=r-ih-ch
        dusty=d-ah-s-t-iy bright=b-r-ay-t strange=s-t-r-ey-n-jh
        cheap=ch-iy-p loyal=l-oy-ax-l famous=f-ey-m-ax-s
        gentle=jh-eh-n-t-ax-l rough=r-ah-f thick=th-ih-k warm=w-ao-r-m
        cold=k-ow-l-d noisy=n-oy-z-iy""",
    "noun": """doctor=d-aa-k-t-er farmer=f-aa-r-m-er teacher=t-iy-ch-er
        child=ch-ay-l-d dog=d-ao-g horse=hh-ao-r-s bird=b-er-d
        river=r-ih-v-er garden=g-aa-r-d-ax-n window=w-ih-n-d-ow
        kitchen=k-ih-ch-ax-n table=t-ey-b-ax-l paper=p-ey-p-er
        letter=l-eh-t-er machine=m-ax-sh-iy-n boat=b-ow-t train=t-r-ey-n
        bridge=b-r-ih-jh mountain=m-aw-n-t-ax-n valley=v-ae-l-iy
        market=m-aa-r-k-ax-t church=ch-er-ch voice=v-oy-s
        treasure=t-r-eh-zh-er picture=p-ih-k-ch-er camera=k-ae-m-r-ax
        judge=jh-ah-jh lawyer=l-oy-er cousin=k-ah-z-ax-n
        father=f-aa-dh-er mother=m-ah-dh-er sister=s-ih-s-t-er
        house=hh-aw-s village=v-ih-l-ih-jh coffee=k-ao-f-iy
        sugar=sh-uh-g-er shadow=sh-ae-d-ow thunder=th-ah-n-d-er
        book=b-uh-k moon=m-uw-n""",
    "verb": """carried=k-ae-r-iy-d painted=p-ey-n-t-ax-d found=f-aw-n-d
        sold=s-ow-l-d watched=w-aa-ch-t followed=f-aa-l-ow-d
        heard=hh-er-d opened=ow-p-ax-n-d closed=k-l-ow-z-d
        touched=t-ah-ch-t pushed=p-uh-sh-t measured=m-eh-zh-er-d
        wanted=w-aa-n-t-ax-d needed=n-iy-d-ax-d forgot=f-er-g-aa-t
        enjoyed=ax-n-jh-oy-d crossed=k-r-ao-s-t reached=r-iy-ch-t
        visited=v-ih-z-ax-t-ax-d chose=ch-ow-z moved=m-uw-v-d
        saved=s-ey-v-d thanked=th-ae-ng-k-t shook=sh-uh-k""",
    "adverb": """slowly=s-l-ow-l-iy quietly=k-w-ay-ax-t-l-iy
        quickly=k-w-ih-k-l-iy often=ao-f-ax-n never=n-eh-v-er
        always=ao-l-w-ey-z usually=y-uw-zh-ax-l-iy rarely=r-eh-r-l-iy
        suddenly=s-ah-d-ax-n-l-iy finally=f-ay-n-ax-l-iy""",
    "preposition": """near=n-ih-r behind=b-ax-hh-ay-n-d
        beyond=b-iy-aa-n-d under=ah-n-d-er with=w-ih-dh
        without=w-ih-th-aw-t above=ax-b-ah-v through=th-r-uw
        across=ax-k-r-ao-s beside=b-ax-s-ay-d for=f-ao-r
        before=b-ax-f-ao-r""",
    "time": """today=t-ax-d-ey yesterday=y-eh-s-t-er-d-ey
        tonight=t-ax-n-ay-t again=ax-g-eh-n outside=aw-t-s-ay-d
        together=t-ax-g-eh-dh-er""",
}
LEXICON = {
    category: dict(entry.split("=") for entry in entries.split())
    for category, entries in PRONUNCIATIONS.items()
}
PATTERNS = (
    "determiner adjective noun verb determiner noun preposition determiner "
    "noun",
    "determiner noun adverb verb determiner adjective noun time",
    "determiner noun verb determiner noun preposition determiner adjective "
    "noun",
    "determiner adjective noun adverb verb determiner adjective noun",
    "determiner noun preposition determiner noun verb determiner noun time",
)

# Each phone: milliseconds, voicing dB, F1 F2 F3 at its start, and at its end
# where it glides. Hz for a man of average height; dB relative to a vowel.
# Voicing of OFF is none.
OFF = -200
VOWELS = {
    "iy": (95, 0, 280, 2250, 2950),
    "ih": (75, 0, 400, 1920, 2560),
    "eh": (90, 0, 540, 1780, 2500),
    "ae": (120, 0, 670, 1700, 2420),
    "ah": (85, 0, 620, 1200, 2550),
    "ax": (55, -3, 500, 1400, 2500),
    "aa": (120, 0, 720, 1150, 2450),
    "ao": (120, 0, 580, 880, 2450),
    "uh": (75, 0, 450, 1050, 2300),
    "uw": (105, 0, 310, 950, 2250),
    "er": (110, -1, 480, 1280, 1680),
    "ey": (120, 0, 480, 1850, 2550, 330, 2200, 2700),
    "ay": (145, 0, 700, 1250, 2500, 400, 2000, 2600),
    "aw": (155, 0, 700, 1300, 2450, 420, 950, 2350),
    "ow": (125, 0, 520, 1000, 2350, 380, 850, 2300),
    "oy": (160, 0, 520, 880, 2400, 380, 2000, 2550),
}
CONSONANTS = {
    "l": (60, -4, 350, 1000, 2700),
    "r": (60, -4, 330, 1100, 1500),
    "w": (60, -5, 290, 650, 2250),
    "y": (55, -5, 270, 2200, 2950),
    "m": (65, -7, 260, 1100, 2200),
    "n": (60, -7, 270, 1550, 2450),
    "ng": (65, -7, 270, 1950, 2600),
    "f": (95, OFF, 300, 1200, 2200),
    "v": (60, -9, 280, 1200, 2200),
    "th": (85, OFF, 300, 1350, 2500),
    "dh": (45, -9, 280, 1350, 2500),
    "s": (105, OFF, 320, 1650, 2550),
    "z": (80, -11, 280, 1650, 2550),
    "sh": (110, OFF, 320, 1850, 2500),
    "zh": (75, -11, 280, 1850, 2500),
    "ch": (80, OFF, 320, 1850, 2500),
    "jh": (60, -12, 280, 1850, 2500),
    "hh": (60, OFF, 500, 1500, 2500),
    "p": (45, OFF, 330, 900, 2200),
    "b": (20, -9, 300, 900, 2200),
    "t": (50, OFF, 330, 1750, 2650),
    "d": (22, -9, 300, 1750, 2650),
    "k": (55, OFF, 330, 1900, 2300),
    "g": (28, -9, 300, 1900, 2300),
    "pcl": (65, OFF, 250, 900, 2200),
    "bcl": (55, -17, 200, 900, 2200),
    "tcl": (55, OFF, 250, 1750, 2650),
    "dcl": (45, -17, 200, 1750, 2650),
    "kcl": (60, OFF, 250, 1900, 2300),
    "gcl": (50, -17, 200, 1900, 2300),
    "pau": (90, OFF, 450, 1450, 2500),
    "h#": (160, OFF, 450, 1450, 2500),
}
PHONES = VOWELS | CONSONANTS
NASALS = ("m", "n", "ng")
CLOSURES = {stop: stop + "cl" for stop in "pbtdkg"} | {
    "ch": "tcl",
    "jh": "dcl",
}
# Noise made at a constriction: centre Hz, half width Hz, dB.
FRICATION = {
    "f": (6800, 4500, -20),
    "v": (6800, 4500, -28),
    "th": (7200, 3500, -22),
    "dh": (7200, 3500, -30),
    "s": (6000, 1300, -9),
    "z": (6000, 1300, -15),
    "sh": (3300, 900, -8),
    "zh": (3300, 900, -15),
    "ch": (3600, 1000, -8),
    "jh": (3600, 1000, -13),
    "p": (1100, 1500, -20),
    "b": (900, 1200, -22),
    "t": (4500, 1600, -12),
    "d": (4200, 1600, -16),
    "k": (1900, 700, -14),
    "g": (1800, 700, -17),
}
# Noise made at the glottis, dB.
ASPIRATION = {"hh": -14, "p": -24, "t": -24, "k": -22}

PHONE_NAMES = list(PHONES)
# One row for each phone: F1 F2 F3 at its start, then at its end.
FORMANTS = np.array([(row[2:] * 2)[:3] + row[-3:] for row in PHONES.values()])


@dataclass(frozen=True)
class Voice:
    """What stays the same in all sentences of a generated speaker.

    Attributes
    ----------
    index : int
        Position of the speaker in the corpus.
    seed : int
        Seed of the corpus.
    name : str
        TIMIT-like identity: F or M, three letters, 0.
    dialect : int
        Dialect region, 1 to 8. It has no influence on the sound.
    pitch : float
        Geometric mean of the fundamental frequency, Hz.
    liveliness : float
        Size of the pitch movements, 1 on average.
    jitter, shimmer : float
        Relative deviation of a glottal cycle's length and height.
    open_quotient : float
        Open part of a glottal cycle.
    tilt : float
        Corner frequency of the glottal low-pass, Hz.
    breath : float
        Breath noise relative to the pulses.
    rate : float
        Duration of the phones relative to the average speaker's.
    formants : np.ndarray
        Factors of F1 F2 F3 for each phone, `[phones, 6]` (see `FORMANTS`).
    upper : np.ndarray
        F4 to F7, Hz.
    bandwidth : float
        Factor of all bandwidths.
    nasal : tuple
        The nasal pole and the nasal zero, Hz.
    dip : float
        Centre of the dip that the piriform sinuses leave, Hz.
    frication : float
        Factor of all frication centres.
    level : float
        Mean level, dB re full scale.
    """

    index: int
    seed: int
    name: str
    dialect: int
    pitch: float
    liveliness: float
    jitter: float
    shimmer: float
    open_quotient: float
    tilt: float
    breath: float
    rate: float
    formants: np.ndarray
    upper: np.ndarray
    bandwidth: float
    nasal: tuple
    dip: float
    frication: float
    level: float


@dataclass(frozen=True)
class Sentence:
    """A spoken sentence.

    Attributes
    ----------
    samples : np.ndarray
        int16 `[T]` at 16 kHz.
    words, phones : list
        `(start, stop, label)` in samples, in order. Phones cover the whole
        sentence; words leave out the silence at both ends.
    """

    samples: np.ndarray
    words: list
    phones: list


def make_voice(index, seed=0):
    """Draw the voice of one speaker.

    Arguments
    ---------
    index : int
        Position in the corpus, 0 to 17575. Women and men alternate, within
        the corpus and within each dialect.
    seed : int
        Seed of the corpus.

    Returns
    -------
    Voice

    Example
    -------
    >>> make_voice(0).name
    'MAAA0'
    >>> make_voice(1).name, make_voice(1).dialect
    ('FQDX0', 2)
    """
    rng = np.random.default_rng((VOICE_STREAM, seed, index))

    def about(centre, spread, size=None):
        """Log-normal around a centre."""
        return centre * np.exp(spread * rng.normal(size=size))

    dialect = index % 8 + 1
    female = (index + index // 8) % 2
    # The step has no factor in common with 26**3: no name comes twice.
    code = index * 10917 % MAX_SPEAKERS
    letters = [chr(65 + code // 26**place % 26) for place in (2, 1, 0)]
    # Formants scale with the inverse of the vocal-tract length; the mouth
    # and the throat also vary on their own, and so does every vowel.
    length = about(1.15 if female else 1.0, 0.045)
    formants = (
        length
        * np.tile(about(1.0, 0.035, 3), 2)
        * about(1.0, 0.02, FORMANTS.shape)
    )
    return Voice(
        index=index,
        seed=seed,
        name="".join(["F" if female else "M", *letters, "0"]),
        dialect=dialect,
        pitch=float(np.clip(about(195 if female else 121, 0.16), 75, 290)),
        liveliness=about(1.0, 0.25),
        jitter=about(0.006, 0.4),
        shimmer=about(0.04, 0.4),
        open_quotient=rng.uniform(0.45, 0.75) + 0.05 * female,
        tilt=about(1800 if female else 2400, 0.45),
        breath=about(0.06 if female else 0.04, 0.8),
        rate=about(0.87, 0.1),
        formants=formants,
        upper=np.minimum(
            length * about(1.0, 0.04, 4) * [3450, 4350, 5400, 6400], 7600
        ),
        bandwidth=about(1.0, 0.15),
        nasal=(about(270, 0.06), about(480, 0.1)),
        dip=length * about(4600, 0.06),
        frication=length**0.5 * about(1.0, 0.05),
        level=rng.normal(-27, 1.5),
    )


@functools.cache
def sentence_words(number):
    """Write the text with a given number, the same for whoever speaks it.

    Arguments
    ---------
    number : int
        1 and 2 are the SA texts, 3 to 452 SX and 453 to 2342 SI.

    Returns
    -------
    list of tuple
        `(word, category)`.

    Example
    -------
    >>> " ".join(word for word, _ in sentence_words(1))
    'my machine forgot her market above this warm house'
    """
    rng = np.random.default_rng((TEXT_STREAM, number))
    pattern = PATTERNS[rng.integers(len(PATTERNS))].split()
    words = [list(LEXICON[c])[rng.integers(len(LEXICON[c]))] for c in pattern]
    return list(zip(words, pattern))


def speak(voice, number):
    """Synthesise one sentence.

    Arguments
    ---------
    voice : Voice
        Who speaks.
    number : int
        What is said, see `sentence_words`.

    Returns
    -------
    Sentence
        It depends on the voice and the number only.

    Example
    -------
    >>> sentence = speak(make_voice(0), 3)
    >>> sentence.samples.dtype, sentence.words[0][2]
    (dtype('int16'), 'the')
    """
    rng = np.random.default_rng(
        (SENTENCE_STREAM, voice.seed, voice.index, number)
    )
    effort, mood, haste = np.clip(rng.normal(size=3), -1.6, 1.6)
    words, phones, accents = _timing(
        voice, number, voice.rate * np.exp(-0.06 * haste), rng
    )
    starts, stops, labels = zip(*phones)
    length = stops[-1]
    frames = length // HOP + 2
    centres = np.arange(frames) * HOP
    owner = np.minimum(
        np.searchsorted(stops, centres, side="right"), len(phones) - 1
    )
    rows = np.array([PHONE_NAMES.index(label) for label in labels])

    voicing = _gain([PHONES[label][1] for label in labels], owner)
    contour = _intonation(voice, accents, centres, voicing, length, rng)
    pitch = voice.pitch * np.exp(0.05 * mood) * contour
    pulses = _glottal_pulses(
        voice,
        np.interp(np.arange(length), centres, pitch),
        np.clip(voice.open_quotient - 0.03 * effort, 0.35, 0.9),
        rng,
    )
    noise = rng.standard_normal(length, dtype=np.float32)

    tract = _vocal_tract(voice, rows, starts, stops, owner, centres, rng)
    # The glottis closes less abruptly in a soft voice.
    corner = voice.tilt * 2 ** (0.2 * effort)
    voiced = _spectra(pulses, frames)
    voiced *= (1 / (1 + 1j * FREQUENCIES / corner)).astype(np.complex64)
    voiced *= tract
    voiced *= voicing[:, None]
    hiss = _spectra(noise, frames)

    # Levels of all noises are relative to that of the vowels.
    vowel = np.isin(labels, list(VOWELS))[owner]
    loudness = _rms(voiced[vowel]) / _rms(hiss)
    aspiration = _gain([ASPIRATION.get(label, OFF) for label in labels], owner)
    # In place: these arrays are the largest here.
    path = tract
    path *= (aspiration / _rms(tract, axis=1))[:, None]
    friction = _gain([FRICATION.get(x, (0, 0, OFF))[2] for x in labels], owner)
    shapes = np.array([_band(label, voice.frication) for label in labels])
    background = 10 ** (-rng.uniform(32, 42) / 20) * _unit(
        (1 + FREQUENCIES / 300) ** -rng.uniform(0.4, 0.9)
    )
    path += shapes[owner] * friction[:, None]
    path += background
    path *= loudness
    hiss *= path
    spectra = voiced + hiss
    spectra *= _channel(rng)

    samples = _overlap_add(spectra, length)
    level = 10 ** ((voice.level + 1.5 * effort + rng.normal()) / 20)
    samples *= level / _rms(samples)
    samples *= min(1.0, 0.9 / np.abs(samples).max())
    return Sentence((32767 * samples).round().astype(np.int16), words, phones)


def _timing(voice, number, pace, rng):
    """Place words and phones; accents are the stressed vowels' middles."""
    words, phones, accents = [], [], []
    clock = 0

    def add(label, stretch):
        """Append a phone at the clock."""
        nonlocal clock
        milliseconds = PHONES[label][0] * stretch * np.exp(0.15 * rng.normal())
        start = clock
        clock += max(int(milliseconds * SAMPLE_RATE / 1000), HOP)
        phones.append((start, clock, label))

    text = sentence_words(number)
    pause_before = rng.integers(3, 3 * len(text))
    add("h#", 1.0)
    for place, (word, category) in enumerate(text):
        if place == pause_before:
            add("pau", pace)
        begin = clock
        content = category not in ("determiner", "preposition")
        stretch = pace * (1.05 if content else 0.85)
        if place == len(text) - 1:
            stretch *= 1.25
        stressed = content
        for phone in LEXICON[category][word].split("-"):
            if phone in CLOSURES:
                add(CLOSURES[phone], stretch)
            add(phone, stretch)
            if stressed and phone in VOWELS and phone != "ax":
                accents.append((phones[-1][0] + clock) / 2)
                stressed = False
        words.append((begin, clock, word))
    add("h#", 1.0)
    return words, phones, accents


def _intonation(voice, accents, centres, voicing, length, rng):
    """Pitch relative to its mean: declination, accents and a slow drift."""
    semitones = 3.0 * (0.5 - centres / length)
    for accent in accents:
        height = rng.uniform(0.5, 4.0)
        width = rng.uniform(0.06, 0.12) * SAMPLE_RATE
        semitones += height * np.exp(-(((centres - accent) / width) ** 2))
    drift = rng.normal(size=8)
    semitones += np.interp(centres, np.linspace(0, length, 8), drift)
    semitones -= np.average(semitones, weights=voicing)
    return 2 ** (voice.liveliness * semitones / 12)


def _glottal_pulses(voice, pitch, open_quotient, rng):
    """Derivative of the glottal flow, and breath while the glottis is open."""
    time = np.arange(len(pitch))
    cycles = np.cumsum(pitch / SAMPLE_RATE)
    count = np.arange(int(cycles[-1]) + 2)
    # Beyond the last cycle the closing instants are extrapolated.
    closings = np.interp(count, cycles, time)
    closings[-1] = closings[-2] + SAMPLE_RATE / pitch[-1]
    deviations = voice.jitter * rng.normal(size=len(count))
    closings += (
        deviations * SAMPLE_RATE / pitch[closings.astype(int) % len(pitch)]
    )
    cycles = np.interp(time, closings, count)
    place = np.floor(cycles).astype(int)
    opening = np.minimum((cycles - place) / open_quotient, 1.0)
    # Differences of the sampled flow alias less than its sampled derivative.
    flow = opening**2 - opening**3
    heights = 1 + voice.shimmer * rng.normal(size=len(count))
    pulses = np.diff(flow, prepend=0.0) * heights[place]
    pulses /= _rms(pulses)
    breath = rng.standard_normal(len(pitch), dtype=np.float32)
    return pulses + voice.breath * breath * (opening < 1)


def _vocal_tract(voice, rows, starts, stops, owner, centres, rng):
    """Frequency response of the vocal tract, complex `[frames, bins]`."""
    starts, stops = np.array(starts), np.array(stops)
    # Targets are held in the middle of a phone, less so for glides.
    knots = np.stack([0.7 * starts + 0.3 * stops, 0.3 * starts + 0.7 * stops])
    wobble = np.exp(0.03 * rng.normal(size=(len(rows), 6)))
    targets = FORMANTS[rows] * voice.formants[rows] * wobble
    targets = targets.reshape(-1, 3)
    knots = knots.T.ravel()
    tracks = [np.interp(centres, knots, target) for target in targets.T]
    lower = _smooth(np.stack(tracks, axis=1))
    # Neighbouring formants keep a distance.
    lower[:, 1] = np.maximum(lower[:, 1], lower[:, 0] + 200)
    lower[:, 2] = np.maximum(lower[:, 2], lower[:, 1] + 250)
    upper = np.broadcast_to(voice.upper, (len(centres), 4))
    nasal_pole = np.full((len(centres), 1), voice.nasal[0])
    is_nasal = np.isin(rows, [PHONE_NAMES.index(label) for label in NASALS])
    nasality = _smooth(0.08 + 0.92 * is_nasal[owner][:, None])
    nasal_zero = nasal_pole + nasality * (voice.nasal[1] - voice.nasal[0])

    poles = np.concatenate([lower, upper, nasal_pole], axis=1)
    widths = voice.bandwidth * np.concatenate(
        [40 + 0.045 * lower, 20 + 0.05 * upper, np.full_like(nasal_pole, 90)],
        axis=1,
    )
    dip = np.full_like(nasal_pole, voice.dip)
    denominator = _polynomial(
        np.append(poles, dip, axis=1),
        np.append(widths, np.full_like(dip, 800), axis=1),
    )
    numerator = _polynomial(
        np.append(nasal_zero, dip, axis=1),
        np.append(
            np.full_like(nasal_zero, 90 * voice.bandwidth),
            np.full_like(dip, 250),
            axis=1,
        ),
    )
    response = scipy.fft.rfft(numerator, FFT_SIZE)
    response /= scipy.fft.rfft(denominator, FFT_SIZE)
    response *= (denominator.sum(1) / numerator.sum(1))[:, None]
    return response.astype(np.complex64)


def _polynomial(centres, widths):
    """Coefficients whose roots lie at the given Hz, `[frames, 2 K + 1]`."""
    radius = np.exp(-np.pi * widths / SAMPLE_RATE)
    middle = -2 * radius * np.cos(2 * np.pi * centres / SAMPLE_RATE)
    product = np.zeros((len(centres), 2 * centres.shape[1] + 1))
    product[:, 0] = 1
    for first, second in zip(middle.T[:, :, None], radius.T[:, :, None] ** 2):
        product[:, 2:] += first * product[:, 1:-1] + second * product[:, :-2]
        product[:, 1] += first[:, 0]
    return product


def _band(label, factor):
    """Magnitude response of frication noise, `[bins]`."""
    centre, width, _ = FRICATION.get(label, (1000, 1000, OFF))
    return _unit(1 / (1 + ((FREQUENCIES / factor - centre) / width) ** 2))


def _channel(rng):
    """Response of the recording; its delay of a hop keeps it causal."""
    octaves = np.log2((FREQUENCIES + 100) / 1000)
    decibels = rng.normal(0, 0.3) * octaves
    decibels += rng.normal(0, 0.5) * np.cos(2 * np.pi * FREQUENCIES / 8000)
    delay = np.exp(-2j * np.pi * FREQUENCIES * HOP / SAMPLE_RATE)
    return (10 ** (decibels / 20) * delay).astype(np.complex64)


def _gain(decibels, owner):
    """dB of each phone to a smooth amplitude of each frame."""
    steps = (10 ** (np.array(decibels) / 20))[owner]
    return _smooth(steps[:, None], 3)[:, 0]


def _smooth(tracks, width=5):
    """Moving average over frames, `[frames, tracks]`."""
    padded = np.pad(tracks, ((width // 2 + 1, width // 2), (0, 0)), "edge")
    total = np.cumsum(padded, axis=0)
    return (total[width:] - total[:-width]) / width


def _spectra(signal, frames):
    """Spectra of Hann windows of two hops, complex64 `[frames, bins]`."""
    padded = np.zeros((frames + 1) * HOP, dtype=np.float32)
    padded[HOP : HOP + len(signal)] = signal
    blocks = padded.reshape(-1, HOP)
    # Periodic Hann: neighbours sum to one.
    window = np.sin(np.pi * np.arange(2 * HOP) / (2 * HOP)) ** 2
    windows = np.hstack([blocks[:-1], blocks[1:]]) * window.astype(np.float32)
    return scipy.fft.rfft(windows, FFT_SIZE)


def _overlap_add(spectra, length):
    """Inverse of `_spectra` after the delay of `_channel`."""
    parts = scipy.fft.irfft(spectra, FFT_SIZE).reshape(len(spectra), -1, HOP)
    blocks = np.zeros((len(spectra) + parts.shape[1], HOP), dtype=np.float32)
    for place in range(parts.shape[1]):
        blocks[place : place + len(spectra)] += parts[:, place]
    return blocks.ravel()[2 * HOP : 2 * HOP + length]


def _rms(values, axis=None):
    power = values.real**2 + values.imag**2
    return np.sqrt(power.mean(axis=axis))


def _unit(response):
    """A magnitude response that keeps the power of white noise."""
    return (response / _rms(response)).astype(np.float32)


def generate_demo_corpus(
    folder, speakers=20, seed=0, workers=None, progress=True, sa=False
):
    """Write generated sentences of many speakers in TIMIT's layout.

    `folder/TRAIN/DR1/MAAA0/SX31.WAV` and the like: 5 SX and 3 SI sentences
    a speaker, as NIST SPHERE (16 kHz, 16 bit, mono), with `.WRD`, `.PHN`
    and `.TXT` beside each. What a speaker says depends on the seed and the
    speaker's place only, so a larger corpus contains the smaller ones. A
    complete corpus is left as it is, an interrupted one is completed; until
    then its README.TXT lies in a folder UNFINISHED.

    Arguments
    ---------
    folder : str or Path
        A new or empty folder, or an earlier corpus of the same parameters.
    speakers : int
        1 to 17576.
    seed : int
        Another seed gives other voices.
    workers : int, optional
        Threads; by default one for each processor, at most 8.
    progress : bool
        Whether to show a progress bar.
    sa : bool
        Whether to add SA1 and SA2, whose texts all speakers share.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If a number is out of range, the folder holds anything else, or it
        cannot be written.

    Example
    -------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     corpus = generate_demo_corpus(folder, speakers=1, progress=False)
    ...     len(list(corpus.glob("TRAIN/DR1/MAAA0/S*.WAV")))
    8
    """
    if not 1 <= speakers <= MAX_SPEAKERS:
        raise InputError(
            f"speakers is {speakers} but must lie in 1 to {MAX_SPEAKERS}."
        )
    if seed < 0:
        raise InputError(f"seed is {seed} but must not be negative.")
    folder = Path(folder)
    try:
        _complete(folder, speakers, seed, workers, progress, sa)
    except OSError as error:
        raise InputError(
            f"The demo corpus cannot be written to {folder} "
            f"({error.strerror}): give a folder that can be written, with "
            "enough space."
        )
    return folder


def _complete(folder, speakers, seed, workers, progress, sa):
    readme = _readme(speakers, seed, sa)
    finished, unfinished = folder / README, folder / UNFINISHED / README
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in (finished, unfinished) if path.is_file()]
    if found and found[0].read_bytes() != readme.encode():
        raise InputError(
            f"{found[0]} describes another corpus: give a new folder, or "
            "the parameters named there."
        )
    entries = {path.name for path in folder.iterdir()}
    if not found and entries - {UNFINISHED}:
        raise InputError(
            f"{folder} holds other files: give a new or empty folder for "
            "the demo corpus."
        )
    voices = [make_voice(index, seed) for index in range(speakers)]
    missing = [v for v in voices if not _speaker_folder(folder, v).is_dir()]
    if finished.is_file() and not missing:
        return
    unfinished.parent.mkdir(exist_ok=True)
    if finished.is_file():
        os.replace(finished, unfinished)
    elif not unfinished.is_file():
        draft = unfinished.with_suffix(".NEW")
        draft.write_bytes(readme.encode())
        os.replace(draft, unfinished)
    work = functools.partial(_write_speaker, folder, sa)
    workers = min(workers or min(os.cpu_count(), 8), -(-len(missing) // 8))
    bar = functools.partial(
        tqdm, total=len(missing), unit="speaker", disable=not progress
    )
    if workers < 2:
        for _ in bar(map(work, missing)):
            pass
    else:
        # numpy and the transforms release the interpreter lock; processes
        # would need a guarded main module and import everything again.
        with ThreadPoolExecutor(workers) as pool:
            try:
                for _ in bar(pool.map(work, missing)):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
    os.replace(unfinished, finished)
    unfinished.parent.rmdir()


def _speaker_folder(folder, voice):
    return folder / "TRAIN" / f"DR{voice.dialect}" / voice.name


def _write_speaker(folder, sa, voice):
    """Write all files of a speaker aside, then move them into place."""
    rng = np.random.default_rng((CHOICE_STREAM, voice.seed, voice.index))
    numbers = {
        "SA": SA_NUMBERS if sa else (),
        "SX": rng.choice(SX_NUMBERS, 5, replace=False),
        "SI": rng.choice(SI_NUMBERS, 3, replace=False),
    }
    aside = folder / UNFINISHED / voice.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for kind in numbers:
        for number in numbers[kind]:
            sentence = speak(voice, number)
            for suffix, content in _encode(sentence):
                (aside / f"{kind}{number}.{suffix}").write_bytes(content)
    target = _speaker_folder(folder, voice)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, target)


def _encode(sentence):
    """Contents of the four files of a sentence, by suffix."""
    audio = io.BytesIO()
    soundfile.write(
        audio, sentence.samples, SAMPLE_RATE, "PCM_16", format="NIST"
    )
    text = " ".join(word for _, _, word in sentence.words).capitalize()
    everything = [(0, len(sentence.samples), f"{text}.")]
    yield "WAV", audio.getvalue()
    for suffix, rows in (
        ("TXT", everything),
        ("WRD", sentence.words),
        ("PHN", sentence.phones),
    ):
        lines = (f"{start} {stop} {label}\n" for start, stop, label in rows)
        yield suffix, "".join(lines).encode("ascii")


def _readme(speakers, seed, sa):
    return f"""\
GENERATED SPEECH

Nobody ever said these sentences: every sample was computed by
amsincnet_sb.dataio.demo_corpus (version {VERSION}), which only imitates the
folder layout of the TIMIT corpus. Nothing of TIMIT is in here.

speakers: {speakers}
sentences a speaker: {10 if sa else 8}
seed: {seed}

Dedicated to the public domain under CC0 1.0
(https://creativecommons.org/publicdomain/zero/1.0/).
"""
