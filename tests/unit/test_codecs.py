"""Recordings through codecs."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.codecs import CODECS, coded_versions, through_codec
from amsincnet_sb.utils.errors import InputError

RATE = 16000


def tones(seconds=1.0, highest=3000, rate=RATE):
    time = np.arange(int(seconds * rate)) / rate
    hz = np.arange(300, highest, 450)
    phases = np.arange(len(hz)) ** 2
    wave = np.sin(2 * np.pi * hz * time[:, None] + phases).sum(1)
    return (0.5 * wave / abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [RATE, 22050])
def test_it_changes_and_is_the_same_recording(codec, rate):
    wave = tones(rate=rate)
    coded = through_codec(wave, rate, codec)
    assert coded.dtype == np.float32 and coded.shape == wave.shape
    error = coded - wave
    quiet = 10 * np.log10((wave**2).mean() / (error**2).mean())
    # From a codec of some kbit/s to one that nobody hears.
    assert 5 < quiet < 60


@pytest.mark.parametrize("codec", ["gsm", "g721", "ulaw", "alaw"])
def test_telephones_have_8_khz(codec):
    high = tones(highest=7800)
    spectrum = abs(np.fft.rfft(through_codec(high, RATE, codec))) ** 2
    hz = np.fft.rfftfreq(len(high), 1 / RATE)
    assert spectrum[hz > 4300].sum() < 0.01 * spectrum[hz < 3700].sum()


def test_a_version_has_the_same_utterances():
    waves = [torch.from_numpy(tones(s)) for s in (0.3, 0.011, 0.5)]
    waves = [(w * 32768).round().to(torch.int16) for w in waves]
    audio = ResidentAudio(waves, [1, 0, 1], "abc", ["a.wav", "b.wav", "c.wav"])
    ((share, coded),) = coded_versions(audio, {"gsm": 0.2}, RATE)
    assert share == 0.2 and coded.samples.dtype == torch.int16
    for name in ("starts", "lengths", "labels"):
        assert torch.equal(getattr(coded, name), getattr(audio, name))
    assert coded.names == audio.names and coded.ids == audio.ids
    for i, wave in enumerate(waves):
        alone = through_codec(wave.numpy() / np.float32(32768), RATE, "gsm")
        start = coded.starts[i]
        kept = coded.samples[start : start + len(wave)].float() / 32768
        np.testing.assert_allclose(kept, alone, atol=2**-16, rtol=0)


def test_none_is_none():
    assert coded_versions(None, {}, RATE) == []


def test_other_codecs_are_refused(monkeypatch):
    with pytest.raises(InputError, match="has 'amr', but must be of gsm, "):
        coded_versions(None, {"amr": 0.1}, RATE)
    monkeypatch.setattr(soundfile, "check_format", lambda *form: False)
    with pytest.raises(InputError, match="cannot write 'mp3'"):
        coded_versions(None, {"mp3": 0.1}, RATE)


def test_audio_in_files_is_not_coded_and_the_log_says_so(caplog):
    class Files:
        streams = True

    with caplog.at_level(logging.WARNING):
        assert coded_versions(Files(), {"gsm": 0.1}, RATE) == []
    assert "codecs has no effect" in caplog.text
