"""Training recordings as telephones and meetings would have coded them.

What a codec leaves of a voice depends on the voice, and no simple distortion
teaches it. So recordings are coded and decoded once, by libsndfile, when they
have been loaded, and a training step costs nothing.
"""

import io
import logging
import math

import numpy as np
import soundfile
import torch

from amsincnet_sb.utils.errors import InputError

__all__ = ["CODECS", "coded_versions", "through_codec"]

logger = logging.getLogger(__name__)

#: Name -> sample rate in Hz, and what libsndfile calls it.
CODECS = {
    "gsm": (8000, {"format": "WAV", "subtype": "GSM610"}),
    "g721": (8000, {"format": "AU", "subtype": "G721_32"}),
    "ulaw": (8000, {"format": "WAV", "subtype": "ULAW"}),
    "alaw": (8000, {"format": "WAV", "subtype": "ALAW"}),
    "mp3": (16000, {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    "opus": (16000, {"format": "OGG", "subtype": "OPUS"}),
}


def through_codec(wave, sample_rate, codec):
    """Code a recording and decode it again.

    Arguments
    ---------
    wave : numpy.ndarray
        ``[time]``, in [-1, 1].
    sample_rate : int
        In Hz.
    codec : str
        A name of :data:`CODECS`: ``gsm`` (06.10), ``g721`` (ADPCM of 32
        kbit/s), ``ulaw`` and ``alaw`` at 8 kHz, ``mp3`` and ``opus`` at
        16 kHz and libsndfile's default quality.

    Returns
    -------
    wave : numpy.ndarray
        Of the same length, float32.

    Example
    -------
    >>> tone = 0.5 * np.sin(np.arange(16000) / 9)
    >>> coded = through_codec(tone, 16000, "gsm")
    >>> coded.shape, bool(abs(coded - tone)[2000:-2000].max() < 0.1)
    ((16000,), True)
    """
    from scipy.signal import resample_poly  # takes a second, for training alone

    rate, form = CODECS[codec]
    common = math.gcd(rate, sample_rate)
    up, down = rate // common, sample_rate // common
    file = io.BytesIO()
    narrow = resample_poly(wave, up, down).clip(-1, 1)
    soundfile.write(file, narrow, rate, **form)
    file.seek(0)
    decoded = resample_poly(soundfile.read(file)[0], down, up)
    # Codecs work in blocks, the last of which is filled up.
    found = np.zeros(len(wave), np.float32)
    found[: len(decoded)] = decoded[: len(wave)].clip(-1, 1)
    return found


def coded_versions(audio, codecs, sample_rate):
    """What :class:`amsincnet_sb.dataio.batches.RandomChunks` draws from, too.

    Arguments
    ---------
    audio : ResidentAudio or StreamingAudio
        The recordings. Those that stay in files have no versions, and the log
        says so.
    codecs : dict
        Codec -> share of the chunks that come through it.
    sample_rate : int
        In Hz.

    Returns
    -------
    versions : list
        Of each codec the share and a ResidentAudio. InputError for an unknown
        codec, one that this libsndfile lacks, or shares that are not shares.
    """
    for codec in codecs:
        if codec not in CODECS:
            raise InputError(
                f"codecs has {codec!r}, but must be of {', '.join(CODECS)}."
            )
        if not soundfile.check_format(*CODECS[codec][1].values()):
            raise InputError(
                f"This libsndfile ({soundfile.__libsndfile_version__}) cannot "
                f"write {codec!r}: take it out of codecs, or install a newer "
                "soundfile."
            )
    if codecs and audio.streams:
        logger.warning(
            "The audio stays in its files, where none of it is coded: codecs "
            "has no effect (max_resident_gb keeps it in memory)."
        )
        return []

    def coder(codec):
        """A function of one utterance."""
        return lambda wave: torch.from_numpy(
            through_codec(wave.numpy(), sample_rate, codec)
        )

    return [
        (share, audio.changed(coder(codec), f"Coding with {codec}"))
        for codec, share in codecs.items()
    ]
