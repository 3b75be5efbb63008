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


def mp3(path, rate, tag=b"", **options):
    """Of a variable bit rate, without the header that tells its length."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 64000)
    wave[:32000] *= 0.001
    soundfile.write(path, wave, rate, **options)
    data = tag + path.read_bytes()
    path.write_bytes(data)
    if data.count(b"Xing") + data.count(b"Info"):  # else it has none
        assert audio_info(path).samples == 64000
    path.write_bytes(data.replace(b"Xing", b"none").replace(b"Info", b"none"))


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\2\1" + bytes(257)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_that_does_not_tell_its_length(tmp_path, rate, tag):
    """Half of it would be left out."""
    mp3(tmp_path / "a.mp3", rate, tag)
    with pytest.raises(InputError, match="MP3 of a variable bit rate"):
        audio_info(tmp_path / "a.mp3")


@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125), bytes(4000)])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_an_mp3_of_a_constant_bit_rate(tmp_path, rate, behind):
    """The length is guessed; some frames are a byte longer than others."""
    pytest.importorskip("soundfile", "0.13")  # which can write one
    path = tmp_path / "a.mp3"
    for level in (0.2, 0.5, 0.99):
        options = {"bitrate_mode": "CONSTANT", "compression_level": level}
        mp3(path, rate, **options)
        path.write_bytes(path.read_bytes() + behind)
        samples = audio_info(path).samples
        # In frames, of which the encoder needs some.
        assert 64000 <= samples < 64000 + 5 * 1152 and samples % 576 == 0
        assert len(read_audio(path, sample_rate=rate)) == samples
        last = read_audio(path, samples - 100, sample_rate=rate)
        assert len(last) == 100


def test_an_mp3_whose_last_frame_is_cut(tmp_path):
    """It ends with the frame before."""
    pytest.importorskip("soundfile", "0.13")
    path = tmp_path / "a.mp3"
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    mp3(path, 44100, **options)
    whole = audio_info(path).samples
    path.write_bytes(path.read_bytes()[:-200])
    assert audio_info(path).samples == whole - 1152
    assert len(read_audio(path, sample_rate=44100)) == whole - 1152


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
