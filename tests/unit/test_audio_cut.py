"""Files that state more than they hold are refused, whatever their format."""

import struct

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.utils.errors import InputError

# Those that state a length, in all of which a cut can be found.
FORMATS = "AIFF AU AVR MAT4 MAT5 MPC2K RF64 SVX VOC W64 WAV WAVEX WVE".split()


def write(folder, kind, channels=1):
    path = folder / f"a.{kind}"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, channels))
    rate = 8000 if kind == "WVE" else 16000
    soundfile.write(path, wave, rate, format=kind)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_cut(tmp_path, kind):
    path = write(tmp_path, kind)
    data = path.read_bytes()
    assert audio_info(path).samples == 4000
    for size in (len(data) // 2, len(data) - 300):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="cut short, with [1-9][0-9]?%"):
            audio_info(path)


@pytest.mark.parametrize("kind", ["RF64", "VOC", "W64", "WAV"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16"])
def test_whole_files_of_any_size(tmp_path, kind, subtype):
    """Sizes in bytes may be rounded up."""
    path = tmp_path / "a"
    for samples in range(1001, 1009):
        wave = np.linspace(-0.5, 0.5, samples)
        soundfile.write(path, wave, 16000, subtype, format=kind)
        info = audio_info(path)
        wave = read_audio(path, sample_rate=info.sample_rate)
        assert info.samples == len(wave) == samples


@pytest.mark.parametrize(
    "kind", ["AIFF", "AU", "CAF", "NIST", "RF64", "W64", "WAV"]
)
def test_what_follows_is_no_sound(tmp_path, kind):
    """As marks and names in W64."""
    path = write(tmp_path, kind)
    path.write_bytes(path.read_bytes() + b"levl" * 300)
    assert audio_info(path).samples == len(read_audio(path)) == 4000


def test_almost_whole_is_not_100_percent(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.ones(64000), 16000)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short, with 99% of the data"):
        audio_info(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_page_that_is_cut(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 64000)
    soundfile.write(path, wave, 16000, subtype)
    data = path.read_bytes()
    assert audio_info(path).samples == 64000
    for size in (len(data) - 1, data.rindex(b"OggS") + 20, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="cut short, within a page"):
            audio_info(path)


@pytest.mark.parametrize("kind", "AIFF AU RF64 VOC W64 WAV".split())
def test_two_channels(tmp_path, kind):
    path = write(tmp_path, kind, channels=2)
    assert len(read_audio(path)) == 4000
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="cut short"):
        read_audio(path)


@pytest.mark.parametrize(
    "kind, at, code, size",
    [
        ("VOC", 27, "<H", 9000),
        ("W64", 96, "<Q", 9000),
        ("RF64", 28, "<Q", 2**33),
        ("AIFF", 22, ">L", 4001),
    ],
)
def test_a_header_that_states_more(tmp_path, kind, at, code, size):
    path = write(tmp_path, kind)
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, at, size)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut short"):
        audio_info(path)


@pytest.mark.parametrize(
    "kind, at, code, size",
    [
        ("WAV", 40, "<L", 2**32 - 1),
        ("W64", 96, "<Q", 2**64 - 1),
        ("AU", 8, ">L", 2**32 - 1),
    ],
)
def test_unknown_sizes_of_pipes(tmp_path, kind, at, code, size):
    path = write(tmp_path, kind)
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, at, size)
    path.write_bytes(data)
    assert len(read_audio(path)) == 4000
