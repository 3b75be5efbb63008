"""Reading audio: right samples from good files, plain words for bad ones."""

import os
import struct
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.dataio.audio import (
    audio_info,
    channels_cancel,
    is_silent,
    read_audio,
    silence_of,
)
from amsincnet_sb.utils.errors import InputError

RATE = 16000


def noise(frames=4000, channels=1, seed=0):
    """16-bit steps, so that PCM files hold them exactly."""
    steps = np.random.default_rng(seed).integers(
        -9000, 9000, (frames, channels)
    )
    return (steps / 2**15).astype("float32")


def write(path, wave, rate=RATE, **kwargs):
    soundfile.write(path, wave, rate, **kwargs)
    return path


def sphere(path, samples):
    """A SPHERE file as LDC writes it, without the help of libsndfile."""
    header = f"""NIST_1A
   1024
database_id -s5 TIMIT
channel_count -i 1
sample_count -i {len(samples)}
sample_rate -i {RATE}
sample_n_bytes -i 2
sample_sig_bits -i 16
sample_byte_format -s2 01
end_head
"""
    data = np.asarray(samples, "<i2").tobytes()
    path.write_bytes(header.encode().ljust(1024) + data)
    return path


def test_sphere_is_recognised_by_content(tmp_path):
    steps = np.random.default_rng(1).integers(-(2**15), 2**15, 5000)
    path = sphere(tmp_path / "SX1.WAV", steps)
    wave = read_audio(path)
    assert wave.dtype == torch.float32
    assert torch.equal(wave, torch.tensor(steps / 2**15, dtype=torch.float32))
    assert audio_info(path) == (5000, RATE, 1, "PCM_16")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"format": "NIST", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "FLAC", "subtype": "PCM_16"},
        {"format": "AIFF", "subtype": "PCM_24"},
    ],
)
def test_parts_of_channels_are_averaged(tmp_path, kwargs):
    stereo = noise(channels=2)
    path = write(tmp_path / "name.WAV", stereo, **kwargs)
    expected = (stereo[1000:3000, 0] + stereo[1000:3000, 1]) / 2
    wave = read_audio(path, 1000, 3000)
    assert torch.allclose(wave, torch.from_numpy(expected), atol=1e-7)


def test_long_files_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("amsincnet_sb.dataio.audio.BLOCK", 700)
    stereo = noise(5001, 2)
    path = write(tmp_path / "a.wav", stereo)
    expected = torch.from_numpy(stereo.mean(1))
    assert torch.allclose(read_audio(path), expected, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_resampling_keeps_the_tone(tmp_path, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    path = write(tmp_path / "a.wav", tone, rate)
    # Limits count the file's own samples: the second half of the second.
    wave = read_audio(path, rate // 2, rate // 2 * 2)
    assert abs(len(wave) - RATE // 2) <= 2
    time = np.arange(len(wave)) / RATE + (rate // 2) / rate
    expected = 0.5 * np.sin(2 * np.pi * 440 * time)
    assert np.abs(wave.numpy() - expected)[100:-100].max() < 5e-3


def test_samples_stay_in_range(tmp_path):
    loud = np.float32([0.5, 1.5, -1.5])
    path = write(tmp_path / "a.wav", loud, subtype="FLOAT")
    assert read_audio(path).tolist() == [0.5, 1.0, -1.0]
    assert read_audio(path, clip=False).tolist() == loud.tolist()
    square = np.sign(np.sin(np.arange(4000) / 20 + 0.01))
    path = write(tmp_path / "a.wav", square, 8000, subtype="FLOAT")
    assert read_audio(path).abs().max() == 1.0


@pytest.mark.parametrize(
    "limits", [(-1, 5), (5, 5), (9, 5), (0, 4001), (4000,)]
)
def test_limits_outside_the_file(tmp_path, limits):
    path = write(tmp_path / "a.wav", noise())
    with pytest.raises(InputError, match=r"a\.wav.*has 4000"):
        read_audio(path, *limits)


def _field(data, offset, layout, value):
    size = struct.calcsize(layout)
    return data[:offset] + struct.pack(layout, value) + data[offset + size :]


def _swap(old, new):
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize(
    ("kind", "damage", "words"),
    [
        ("NIST", lambda d: d[:3000], "cut short, with 25%"),
        ("NIST", lambda d: d[:500], "cannot be read as audio"),
        ("NIST", _swap(b"count -i 4000", b"count -i 4" + b"0" * 11), "cut sho"),
        ("NIST", _swap(b"rate -i 16000", b"rate -i 00000"), "cannot be read"),
        ("NIST", _swap(b"nel_count -i 1", b"nel_count -i 999"), "999 channels"),
        ("WAV", lambda d: d[:4044], "cut short, with 50%"),
        ("WAV", lambda d: _field(d, 24, "<I", 0), "cannot be read"),
        ("WAV", lambda d: _field(d, 24, "<I", 2**31 - 1), "samples per second"),
        ("WAV", lambda d: _field(d, 22, "<H", 1000), "1000 channels"),
        ("FLAC", lambda d: d[: len(d) // 2], "cannot be read"),
        # 2**36 frames in a few kilobytes
        (
            "FLAC",
            lambda d: _field(_field(d, 22, ">I", 2**32 - 1), 21, "B", 0xFF),
            "cannot be read|cut short",
        ),
        ("WAV", lambda d: b"", "is empty"),
    ],
)
def test_damaged_files(tmp_path, kind, damage, words):
    path = write(tmp_path / "bad.wav", noise(), format=kind)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=words) as caught:
        read_audio(path)
    if "cut short" in str(caught.value) and kind != "FLAC":
        with pytest.raises(InputError, match="cut short"):
            audio_info(path)  # without decoding it
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count("\n") == 0


def test_files_written_to_a_pipe_have_no_size(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    path.write_bytes(_field(path.read_bytes(), 40, "<I", 2**32 - 1))
    assert len(read_audio(path)) == 4000


def test_shorten_names_its_cure(tmp_path):
    path = sphere(tmp_path / "a.wav", np.arange(500))
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00\ndatabase_id"
    path.write_bytes(path.read_bytes().replace(b"database_id", coding))
    with pytest.raises(InputError, match="sph2pipe or w_decode"):
        read_audio(path)


@pytest.mark.parametrize(
    "wave, rate, words",
    [
        ([0.1, np.nan], RATE, "NaN or infinite"),
        ([0.1, -np.inf], RATE, "NaN or infinite"),
        ([0.1, 9000.0], RATE, "full scale is 1"),
        ([0.1, 0.2], 15999, "cannot be resampled"),
        ([], RATE, "no samples"),
    ],
)
def test_samples_and_rates_that_are_refused(tmp_path, wave, rate, words):
    path = write(tmp_path / "a.wav", np.float32(wave), rate, subtype="FLOAT")
    with pytest.raises(InputError, match=words):
        read_audio(path)


@pytest.mark.parametrize(
    "name, words",
    [
        ("absent.wav", "no such file"),
        ("long" * 100, "no such file"),
        ("", "folder"),
        ("a.raw", "no header"),
    ],
)
def test_no_audio_file(tmp_path, name, words):
    (tmp_path / "a.raw").write_bytes(b"1234")
    with pytest.raises(InputError, match=words):
        read_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["pipe", "/dev/null"])
def test_no_file_at_all(tmp_path, name):
    """As ``<(ffmpeg ...)`` is in a shell."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe or a device, not a file"):
        audio_info(tmp_path / name)


def test_a_folder_that_may_not_be_entered(monkeypatch):
    denied = Mock(side_effect=PermissionError(13, "not for you"))
    monkeypatch.setattr("os.stat", denied)
    with pytest.raises(InputError, match="a.wav: it cannot be read .not for"):
        audio_info("a.wav")


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_what_cannot_be_opened_to_see_why(tmp_path, monkeypatch, error):
    """Not that of another's recording, nor one that is gone meanwhile."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"no audio")
    denied = Mock(side_effect=error(13, "not for you"))
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(InputError, match="a.wav: it cannot be read .not for"):
        audio_info(path)


def test_silence():
    for wave in (torch.zeros(0), torch.zeros(100), torch.full((100,), -0.3)):
        assert is_silent(wave)
    dither = torch.randint(-1, 2, (1000,)) / 2**15
    assert is_silent(dither)
    assert not is_silent(2 * dither)


def test_a_part_without_sound_where_channels_cancel(tmp_path):
    left = np.append(np.zeros(4000), noise()[:, 0])
    path = write(tmp_path / "a.wav", np.stack([left, -left], 1))
    assert channels_cancel(path, start=4000)
    assert "cancel" in str(silence_of(path))
    assert not channels_cancel(path, stop=4000)
