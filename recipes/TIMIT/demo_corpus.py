"""Generated speech-like sentences in TIMIT's layout, for demos and tests.

No recording is involved: a source-filter synthesiser (glottal pulses, moving
formants, shaped noise) speaks words of random syllables with voices drawn at
random. Speakers differ in pitch, vocal-tract length, formants, voice
quality and rate; the sentences of a speaker in text, intonation, effort,
channel and background noise. Accuracies on this corpus say that code works,
and nothing about speech.

References
----------
Klatt, "Software for a cascade/parallel formant synthesizer", JASA 1980;
vowel formants after Peterson & Barney, "Control methods used in a study of
the vowels", JASA 1952.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile
from tqdm import tqdm

from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import replaced_folder

# A change of any sample must change this, so that corpora are not mixed.
VERSION = 2
README = "README.TXT"

SAMPLE_RATE = 16000
MAX_SPEAKERS = 26**3
SX_NUMBERS = range(3, 453)  # TIMIT's; 1 and 2 are its SA sentences
SI_NUMBERS = range(453, 2343)

HOP = 128
FFT_SIZE = 8 * HOP
FREQUENCIES = np.arange(FFT_SIZE // 2 + 1) * SAMPLE_RATE / FFT_SIZE
DELAY = np.exp(-2j * np.pi * FREQUENCIES / SAMPLE_RATE)  # of one sample

# The first seed of every random stream, so that no two coincide.
TEXT, VOICE, CHOICE, SENTENCE = 1, 2, 3, 4

# Milliseconds; voicing in dB relative to a vowel; F1 F2 F3 in Hz for a man of
# average height; noise at a constriction: centre Hz, half width Hz, dB.
OFF = -200
SILENT = 1000, 1000, OFF
VOWELS = {
    "iy": (95, 0, 280, 2250, 2950),
    "ih": (75, 0, 400, 1920, 2560),
    "eh": (90, 0, 540, 1780, 2500),
    "ae": (120, 0, 670, 1700, 2420),
    "ah": (85, 0, 620, 1200, 2550),
    "aa": (120, 0, 720, 1150, 2450),
    "ao": (120, 0, 580, 880, 2450),
    "uh": (75, 0, 450, 1050, 2300),
    "uw": (105, 0, 310, 950, 2250),
    "er": (110, -1, 480, 1280, 1680),
}
CONSONANTS = {
    "l": (60, -4, 350, 1000, 2700),
    "r": (60, -4, 330, 1100, 1500),
    "w": (60, -5, 290, 650, 2250),
    "y": (55, -5, 270, 2200, 2950),
    "m": (65, -7, 260, 1100, 2200),
    "n": (60, -7, 270, 1550, 2450),
    "f": (95, OFF, 300, 1200, 2200, 6800, 4500, -20),
    "v": (60, -9, 280, 1200, 2200, 6800, 4500, -28),
    "s": (105, OFF, 320, 1650, 2550, 6000, 1300, -9),
    "z": (80, -11, 280, 1650, 2550, 6000, 1300, -15),
    "sh": (110, OFF, 320, 1850, 2500, 3300, 900, -8),
    "p": (45, OFF, 330, 900, 2200, 1100, 1500, -20),
    "b": (20, -9, 300, 900, 2200, 900, 1200, -22),
    "t": (50, OFF, 330, 1750, 2650, 4500, 1600, -12),
    "d": (22, -9, 300, 1750, 2650, 4200, 1600, -16),
    "k": (55, OFF, 330, 1900, 2300, 1900, 700, -14),
    "g": (28, -9, 300, 1900, 2300, 1800, 700, -17),
}
PAUSES = {
    "closure": (60, OFF, 250, 1500, 2400),
    "voiced closure": (50, -17, 200, 1500, 2400),
    "silence": (160, OFF, 450, 1450, 2500),
}
CLOSURES = dict.fromkeys("ptk", "closure")
CLOSURES |= dict.fromkeys("bdg", "voiced closure")
PHONES = {**VOWELS, **CONSONANTS, **PAUSES}
NAMES = list(PHONES)
TABLE = np.array([(row + SILENT)[:8] for row in PHONES.values()], dtype=float)
MILLISECONDS, VOICING, *_ = TABLE.T
FORMANTS, NOISE = TABLE[:, 2:5], TABLE[:, 5:]


@dataclass(frozen=True)
class Voice:
    """What stays the same in all sentences of a generated speaker."""

    index: int  # in the corpus
    seed: int  # of the corpus
    name: str  # as in TIMIT: F or M, three letters, 0
    dialect: int  # region 1 to 8; without influence on the sound
    pitch: float  # mean fundamental frequency, Hz
    tilt: float  # corner of the glottal low-pass, Hz
    breath: float  # breath noise relative to the glottal pulses
    rate: float  # duration of the phones relative to the average speaker's
    formants: np.ndarray  # F1 F2 F3 of each phone, Hz, [phones, 3]
    upper: np.ndarray  # F4 to F7, Hz
    bandwidth: float  # factor of the formants' bandwidths
    frication: float  # factor of the frication noises' centres
    level: float  # mean level, dB re full scale


def make_voice(index, seed=0):
    """Draw the Voice of one speaker.

    Arguments
    ---------
    index : int
        Place in the corpus, 0 to 17575. Women and men alternate, within the
        corpus and within each dialect.
    seed : int
        Of the corpus.

    Example
    -------
    >>> make_voice(1).name, make_voice(1).dialect
    ('FQDX0', 2)
    """
    rng = np.random.default_rng((VOICE, seed, index))

    def about(centre, spread):
        """Log-normal around a centre."""
        return centre * np.exp(spread * rng.normal(size=np.shape(centre)))

    female = (index + index // 8) % 2
    # The step has no factor in common with 26**3: no name comes twice.
    code = index * 10917 % MAX_SPEAKERS
    letters = [chr(65 + code // 26**place % 26) for place in (2, 1, 0)]
    # Formants scale with the inverse of the vocal-tract length; the mouth
    # and the throat also vary on their own, and so does every vowel.
    length = about(1.15 if female else 1.0, 0.045)
    formants = length * about(np.ones(3), 0.035) * about(FORMANTS, 0.02)
    upper = length * about(np.array([3450, 4350, 5400, 6400]), 0.04)
    return Voice(
        index=index,
        seed=seed,
        name="".join(["F" if female else "M", *letters, "0"]),
        dialect=index % 8 + 1,
        pitch=float(np.clip(about(195 if female else 121, 0.16), 75, 290)),
        tilt=about(1800 if female else 2400, 0.45),
        breath=about(0.06 if female else 0.04, 0.8),
        rate=about(0.87, 0.1),
        formants=formants,
        upper=np.minimum(upper, 7600),
        bandwidth=about(1.0, 0.15),
        frication=length**0.5 * about(1.0, 0.05),
        level=rng.normal(-27, 1.5),
    )


def sentence_words(number):
    """Phones of the words of a sentence, the same for whoever speaks it.

    Example
    -------
    >>> [str(phone) for phone in sentence_words(3)[0]]
    ['w', 'uw', 'z']
    """
    rng = np.random.default_rng((TEXT, number))
    words = []
    for syllables in rng.integers(1, 4, size=rng.integers(6, 9)):
        words.append([])
        for _ in range(syllables):
            words[-1].append(rng.choice(list(CONSONANTS)))
            words[-1].append(rng.choice(list(VOWELS)))
        if rng.random() < 0.5:
            words[-1].append(rng.choice(list("lmnsz")))
    return words


def speak(voice, number):
    """Synthesise one sentence; it depends on the arguments only.

    Arguments
    ---------
    voice : Voice
    number : int
        Of the sentence, see :func:`sentence_words`.

    Returns
    -------
    samples : np.ndarray
        ``[T]``, int16 at 16 kHz.
    words : list of tuple
        ``(start, stop, word)`` in samples, in order.
    """
    rng = np.random.default_rng((SENTENCE, voice.seed, voice.index, number))
    effort, mood = np.clip(rng.normal(size=2), -1.6, 1.6)
    words, phones, accents = _timing(sentence_words(number), voice.rate, rng)
    starts, stops, kinds = np.array(phones).T
    length = stops[-1]
    centres = np.arange(0, length + 2 * HOP, HOP)
    owner = np.searchsorted(stops, centres, side="right")
    kind = kinds[np.minimum(owner, len(phones) - 1)]  # of each frame

    pitch = voice.pitch * np.exp(0.05 * mood)
    pitch = pitch * _intonation(accents, centres, length, rng)
    pulses = _glottal_pulses(
        np.interp(np.arange(length), centres, pitch), voice.breath, rng
    )
    # The glottis closes less abruptly in a soft voice.
    corner = voice.tilt * 2 ** (0.2 * effort)
    voiced = _spectra(pulses, len(centres)) * _gain(VOICING[kind])
    voiced *= _vocal_tract(voice, starts, stops, kinds, centres, rng)
    voiced /= 1 + 1j * FREQUENCIES / corner

    # Levels of all noises are relative to that of the vowels.
    hiss = _spectra(rng.standard_normal(length), len(centres))
    hiss *= _rms(voiced[kind < len(VOWELS)]) / _rms(hiss)
    middle, width, level = NOISE.T[:, :, None]
    shapes = 1 / (1 + ((FREQUENCIES / voice.frication - middle) / width) ** 2)
    noise = _unit(shapes)[kind] * _gain(level[kind, 0])
    background = _unit((1 + FREQUENCIES / 300) ** -rng.uniform(0.4, 0.9))
    noise += 10 ** (-rng.uniform(32, 42) / 20) * background
    spectra = (voiced + hiss * noise) * _channel(rng)

    samples = _overlap_add(spectra, length)
    level = 10 ** ((voice.level + 1.5 * effort + rng.normal()) / 20)
    samples *= level / _rms(samples)
    samples *= min(1.0, 0.9 / np.abs(samples).max())
    return (32767 * samples).round().astype(np.int16), words


def _timing(text, pace, rng):
    """Words and phones with their samples; the middles of accented vowels."""
    words, phones, accents = [], [], []

    def add(phone, stretch):
        """Append a phone."""
        kind = NAMES.index(phone)
        start = phones[-1][1] if phones else 0
        seconds = stretch * MILLISECONDS[kind] / 1000
        seconds *= np.exp(0.15 * rng.normal())
        phones.append((start, start + int(seconds * SAMPLE_RATE), kind))

    add("silence", 1.0)
    for word in text:
        begin = phones[-1][1]
        for place, phone in enumerate(word):
            if phone in CLOSURES:
                add(CLOSURES[phone], pace)
            add(phone, pace)
            if place == 1:  # the first vowel
                accents.append(sum(phones[-1][:2]) / 2)
        words.append((begin, phones[-1][1], "".join(word)))
    add("silence", 1.0)
    return words, phones, accents


def _intonation(accents, centres, length, rng):
    """Pitch relative to its mean: declination, accents and a slow drift."""
    semitones = 3.0 * (0.5 - centres / length)
    for accent in accents:
        height = rng.uniform(0.5, 4.0)
        width = rng.uniform(0.06, 0.12) * SAMPLE_RATE
        semitones += height * np.exp(-(((centres - accent) / width) ** 2))
    drift = rng.normal(size=8)
    semitones += np.interp(centres, np.linspace(0, length, 8), drift)
    return 2 ** ((semitones - semitones.mean()) / 12)


def _glottal_pulses(pitch, breath, rng):
    """Derivative of the glottal flow, and breath while the glottis is open."""
    cycles = np.cumsum(pitch / SAMPLE_RATE)
    opening = np.minimum(cycles % 1 / 0.6, 1.0)
    heights = 1 + 0.04 * rng.normal(size=int(cycles[-1]) + 1)
    # Differences of the sampled flow alias less than its sampled derivative.
    flow = (opening**2 - opening**3) * heights[cycles.astype(int)]
    pulses = np.diff(flow, prepend=0.0)
    noise = rng.standard_normal(len(pitch)) * (opening < 1)
    return pulses / _rms(pulses) + breath * noise


def _vocal_tract(voice, starts, stops, kinds, centres, rng):
    """Frequency response of the vocal tract, complex ``[frames, bins]``."""
    # A phone's formants are held in its middle and move in between.
    knots = np.stack([0.7 * starts + 0.3 * stops, 0.3 * starts + 0.7 * stops])
    targets = voice.formants[kinds]
    targets = targets * np.exp(0.03 * rng.normal(size=targets.shape))
    tracks = [
        np.interp(centres, knots.T.ravel(), np.repeat(target, 2))
        for target in targets.T
    ]
    lower = _smooth(np.stack(tracks, axis=1), 5)
    # Neighbouring formants keep a distance.
    lower[:, 1] = np.maximum(lower[:, 1], lower[:, 0] + 200)
    lower[:, 2] = np.maximum(lower[:, 2], lower[:, 1] + 250)

    upper = np.broadcast_to(voice.upper, (len(centres), 4))
    widths = np.hstack([40 + 0.045 * lower, 20 + 0.05 * upper])
    radii = np.exp(-np.pi * voice.bandwidth * widths / SAMPLE_RATE)
    angles = 2 * np.pi * np.hstack([lower, upper]) / SAMPLE_RATE
    response = np.ones((len(centres), len(FREQUENCIES)), np.complex64)
    for first, second in zip((-2 * radii * np.cos(angles)).T, radii.T**2):
        poles = 1 + first[:, None] * DELAY + second[:, None] * DELAY**2
        response *= (1 + first + second)[:, None] / poles
    return response


def _channel(rng):
    """Response of the recording; its delay of a hop keeps it causal."""
    octaves = np.log2((FREQUENCIES + 100) / 1000)
    decibels = rng.normal(0, 0.3) * octaves
    decibels += rng.normal(0, 0.5) * np.cos(2 * np.pi * FREQUENCIES / 8000)
    return 10 ** (decibels / 20) * DELAY**HOP


def _gain(decibels):
    """dB of each frame's phone to a smooth amplitude, ``[frames, 1]``."""
    return _smooth(10 ** (decibels[:, None] / 20), 3)


def _smooth(tracks, width):
    """Moving average over frames, ``[frames, tracks]``."""
    padded = np.pad(tracks, ((width // 2 + 1, width // 2), (0, 0)), "edge")
    total = np.cumsum(padded, axis=0)
    return (total[width:] - total[:-width]) / width


def _spectra(signal, frames):
    """Spectra of Hann windows of two hops, complex64 ``[frames, bins]``."""
    padded = np.zeros((frames + 1) * HOP, dtype=np.float32)
    padded[HOP : HOP + len(signal)] = signal
    blocks = padded.reshape(-1, HOP)
    # Periodic Hann: neighbours sum to one.
    hann = np.sin(np.pi * np.arange(2 * HOP) / (2 * HOP)) ** 2
    windows = np.hstack([blocks[:-1], blocks[1:]]) * hann.astype(np.float32)
    return scipy.fft.rfft(windows, FFT_SIZE)


def _overlap_add(spectra, length):
    """Inverse of :func:`_spectra` after the delay of :func:`_channel`."""
    parts = scipy.fft.irfft(spectra, FFT_SIZE).reshape(len(spectra), -1, HOP)
    blocks = np.zeros((len(spectra) + parts.shape[1], HOP))
    for place in range(parts.shape[1]):
        blocks[place : place + len(spectra)] += parts[:, place]
    return blocks.ravel()[2 * HOP : 2 * HOP + length]


def _rms(values):
    return np.sqrt((values.real**2 + values.imag**2).mean())


def _unit(response):
    """Magnitude responses that keep the power of white noise."""
    return response / np.sqrt((response**2).mean(axis=-1, keepdims=True))


def generate_demo_corpus(folder, speakers=20, seed=0):
    """Write generated sentences of many speakers in TIMIT's layout.

    ``folder/TRAIN/DR1/MAAA0/SX31.WAV`` and the like: 5 SX and 3 SI sentences
    a speaker, as NIST SPHERE (16 kHz, 16 bit, mono) with a ``.WRD`` beside
    each. A larger corpus contains the smaller ones of the same seed.

    Arguments
    ---------
    folder : str or Path
        A new or empty folder, or a corpus of the same parameters, which is
        left as it is.
    speakers : int
        1 to 17576.
    seed : int
        Another seed gives other voices.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        An option is out of range, or the folder holds anything else or cannot
        be written.

    Example
    -------
    >>> corpus = generate_demo_corpus(getfixture("tmp_path"), speakers=1)
    >>> len(list(corpus.glob("TRAIN/DR1/MAAA0/S*.WAV")))
    8
    """
    if not 1 <= speakers <= MAX_SPEAKERS:
        raise InputError(
            f"speakers is {speakers} but must lie in 1 to {MAX_SPEAKERS}."
        )
    if seed < 0:
        raise InputError(f"seed is {seed} but must not be negative.")
    folder, readme = Path(folder), _readme(speakers, seed)
    if _exists(folder, readme):
        return folder
    voices = [make_voice(index, seed) for index in range(speakers)]
    with replaced_folder(folder) as unfinished:
        (unfinished / README).write_text(readme)
        written = prefetch(
            functools.partial(_write_speaker, unfinished), voices
        )
        # No bar unless someone watches.
        list(tqdm(written, "speakers", speakers, disable=None))
    return folder


def _exists(folder, readme):
    """Whether the corpus is there; InputError if something else is."""
    try:
        if (folder / README).is_file():
            if (folder / README).read_bytes() == readme.encode():
                return True
            raise InputError(
                f"{folder / README} describes another corpus; give a new "
                "folder, or the parameters named there."
            )
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds other files; give a new or empty folder for "
                "the demo corpus."
            )
    except OSError as error:
        raise InputError(
            f"The demo corpus cannot be written to {folder} "
            f"({error.strerror}); give a folder that can be written."
        ) from error
    return False


def _write_speaker(folder, voice):
    """All files of a speaker."""
    rng = np.random.default_rng((CHOICE, voice.seed, voice.index))
    numbers = {
        "SX": rng.choice(SX_NUMBERS, 5, replace=False),
        "SI": rng.choice(SI_NUMBERS, 3, replace=False),
    }
    home = folder / "TRAIN" / f"DR{voice.dialect}" / voice.name
    home.mkdir(parents=True)
    for kind, own in numbers.items():
        for number in own:
            samples, words = speak(voice, number)
            path = home / f"{kind}{number}.WAV"
            soundfile.write(path, samples, SAMPLE_RATE, "PCM_16", format="NIST")
            lines = (f"{start} {stop} {word}\n" for start, stop, word in words)
            path.with_suffix(".WRD").write_text("".join(lines))


def _readme(speakers, seed):
    return f"""\
GENERATED SPEECH

Nobody ever said these sentences: every sample was computed by demo_corpus.py
(version {VERSION}), which only imitates the folder layout of the TIMIT corpus.
Nothing of TIMIT is in here.

speakers: {speakers}
sentences a speaker: 8
seed: {seed}

Dedicated to the public domain under CC0 1.0
(https://creativecommons.org/publicdomain/zero/1.0/).
"""
