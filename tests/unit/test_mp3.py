"""MP3 is read from its first frame to its last, whatever its header says."""

import functools
import io
import os
import re

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.utils.errors import InputError

RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000)
DELAY = 576 + 529  # samples, of LAME and of the decoder
TAG = b"ID3\4\0\0\0\0\2\1" + bytes(257)
ID3V1 = b"TAG" + bytes(125)
JUNK = b"no frame " * 400


@functools.cache
def encoded(rate=16000, channels=1, **options):
    """Four seconds, of which the first half needs few bits."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (4 * rate, channels))
    wave[: 2 * rate] *= 0.001
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="MP3", **options)
    return file.getvalue()


def constant(rate, level=0.5, channels=1):
    pytest.importorskip("soundfile", "0.13")  # which can write one
    options = {"bitrate_mode": "CONSTANT", "compression_level": level}
    return without_header(encoded(rate, channels, **options))


def without_header(data):
    """From the first frame with sound on."""
    if not re.search(rb"Xing|Info", data[:200]):
        return data
    return data[data.index(data[:2], 100) :]


def samples(path, data, rate=16000):
    path.write_bytes(data)
    info, wave = audio_info(path), read_audio(path, sample_rate=rate)
    assert len(wave) == info.samples
    last = read_audio(path, len(wave) - 100, sample_rate=rate)
    assert len(last) == 100
    return wave


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.mp3"


@pytest.mark.parametrize("tag", [b"", TAG, TAG + TAG])
@pytest.mark.parametrize("rate", RATES)
def test_a_variable_bit_rate_without_a_header(path, rate, tag):
    """What is behind a guess from the first frame was left out."""
    data = encoded(rate)
    whole = samples(path, data, rate)
    assert len(whole) == 4 * rate
    wave = samples(path, tag + without_header(data), rate)
    assert len(wave) >= DELAY + len(whole)
    torch.testing.assert_close(wave[DELAY:][: len(whole)], whole)


@pytest.mark.parametrize("behind", [b"", ID3V1, JUNK, bytes(4000)])
@pytest.mark.parametrize("rate", RATES)
def test_a_constant_bit_rate(path, rate, behind):
    """The length is guessed; some frames are a byte longer than others."""
    for level in (0.2, 0.5, 0.99):
        wave = samples(path, constant(rate, level) + behind, rate)
        # In frames, of which the encoder needs some.
        each = 576 if rate < 32000 else 1152
        assert len(wave) % each == 0
        assert 4 * rate <= len(wave) < 4 * rate + 4 * each


def test_the_first_frame_is_longer_than_others(path):
    """So that the guess is too short."""
    data = constant(11025, 0.99)
    whole = len(samples(path, data, 11025))
    heads = list(re.finditer(b"\xff\xe3..", data, re.DOTALL))
    skipped, head = next(
        (i, head) for i, head in enumerate(heads) if head[0][2] & 2
    )
    wave = samples(path, data[head.start() :], 11025)
    assert skipped and len(wave) == whole - skipped * 576


@pytest.mark.parametrize("size", [200, 5])
def test_the_last_frame_is_cut(path, size):
    """It ends with the frame before; a header knows better."""
    data = constant(44100)
    whole = len(samples(path, data, 44100))
    assert len(samples(path, data[:-size], 44100)) == whole - 1152
    path.write_bytes(encoded()[:-size])
    with pytest.raises(InputError, match="cut short, with 11. of the 114 fr"):
        audio_info(path)


@pytest.mark.parametrize(
    "between", [b"", ID3V1 + TAG, JUNK[:99], JUNK], ids=len
)
def test_joined_files(path, between):
    """The header of the first tells the length of the first alone."""
    data = encoded()
    whole = samples(path, data)
    wave = samples(path, data + between + data + between)
    assert len(wave) > 2 * len(whole)
    torch.testing.assert_close(wave[DELAY:][:60000], whole[:60000])
    torch.testing.assert_close(wave[-2000 - 559 : -559], whole[-2000:])


def test_a_header_that_libsndfile_does_not_know(path):
    """Of another encoder, or one that tells no number of frames."""
    data = encoded()
    whole = samples(path, data)
    at = re.search(rb"Xing|Info", data).start()
    silent = bytearray(data)
    silent[4:at] = bytes(at - 4)
    silent[at + 7] &= ~1
    assert len(samples(path, silent)) == 114 * 576
    silent[at : at + 4], silent[36:40] = bytes(4), b"VBRI"
    wave = samples(path, silent)
    assert len(wave) == 115 * 576
    torch.testing.assert_close(wave[576 + DELAY :][: len(whole)], whole)


def test_sound_of_another_kind(path):
    """No part of it is left out silently."""
    for other in (encoded(16000, 2), encoded(8000)):
        for data in (encoded() + other, encoded() + JUNK + other):
            path.write_bytes(data)
            with pytest.raises(InputError, match="from byte .* on it is an"):
                audio_info(path)


def test_a_free_bit_rate(path):
    data = bytearray(constant(44100))
    for head in re.finditer(b"\xff\xfb[^\xff]\xc4", bytes(data)):
        data[head.start() + 2] &= 0x0F
    path.write_bytes(data)
    with pytest.raises(InputError, match="free bit rate; convert it to WAV"):
        audio_info(path)


@pytest.mark.parametrize(
    "head, size, each",
    [
        (b"\xff\xfd\x80\xc0", 417, 1152),  # layer II, 128 kbit/s, 44.1 kHz
        (b"\xff\xf5\x80\xc0", 417, 1152),  # 64 kbit/s, 22.05 kHz
        (b"\xff\xff\x40\xc0", 136, 384),  # layer I
        (b"\xff\xf7\x40\xc0", 136, 384),
    ],
    ids=str,
)
def test_other_layers(path, head, size, each):
    """Silence, whose length is guessed as well."""
    frame = head + bytes(size - 4)
    padded = head[:2] + bytes([head[2] + 2]) + head[3:] + bytes(size - 3)
    if head[1] & 6 == 6:
        padded += bytes(3)
    path.write_bytes(TAG + (9 * frame + padded) * 20 + ID3V1)
    assert audio_info(path).samples == 200 * each
    assert len(read_audio(path, 199 * each)) > 0


def test_a_file_that_changes(path):
    """To one of the same size and time."""
    data = constant(16000)
    samples(path, data)
    before = path.stat()
    other = path.with_name("b")
    half = len(data) // 2
    other.write_bytes(data[:half] + bytes(len(data) - half))
    other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert audio_info(path).samples < 40000


def test_less_than_a_frame(path):
    """For libsndfile it does not exist."""
    path.write_bytes(without_header(encoded())[:100])
    with pytest.raises(InputError, match="as audio .damaged, or too short.;"):
        audio_info(path)


def bursts(rate, channels):
    """Most of whose frames are small, and begin in others."""
    random = np.random.default_rng(0)
    gains = (random.random(12 * rate // 1000) > 0.6).repeat(1000)[:, None]
    return gains * random.uniform(-0.3, 0.3, (len(gains), channels))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_parts_are_what_the_whole_is(path, rate, channels, monkeypatch):
    """A frame's data may begin frames earlier; without them it is silent."""
    soundfile.write(path, bursts(rate, channels), rate)
    whole = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    whole = whole.mean(1) if channels > 1 else whole
    for start in range(1000, len(whole), 6789):
        part = read_audio(path, start, len(whole), sample_rate=rate)
        torch.testing.assert_close(part, whole[start:], rtol=0, atol=1e-6)
    monkeypatch.setattr("amsincnet_sb.dataio.audio.BLOCK", 10_000)
    wave = read_audio(path, sample_rate=rate)
    torch.testing.assert_close(wave, whole, rtol=0, atol=1e-6)
