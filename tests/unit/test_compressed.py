"""FLAC and Ogg whose length a header does not tell, or of the first part alone."""

import io
import os

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.utils.errors import InputError


def encoded(kind, subtype, channels=1):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (48000, channels))
    file = io.BytesIO()
    soundfile.write(file, wave, 16000, subtype, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
def test_flac_that_was_written_to_a_pipe(tmp_path, channels):
    """It was refused for a seek that failed."""
    path = tmp_path / "a.flac"
    data = bytearray(encoded("FLAC", "PCM_16", channels))
    path.write_bytes(data)
    whole = read_audio(path)
    data[21] &= 0xF0  # four bits, and four bytes, of the number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert audio_info(path).samples == len(whole) == 48000
    assert torch.equal(read_audio(path), whole)
    for start in (1, 47000, 47999):
        assert torch.equal(read_audio(path, start), whole[start:])
    path.write_bytes(data[:-2000])
    with pytest.raises(InputError, match="a.flac: it cannot be read as audio"):
        audio_info(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_with_streams_in_a_row(tmp_path, subtype):
    """The first alone was read, without a word."""
    path = tmp_path / "a.ogg"
    data = encoded("OGG", subtype)
    for other in (data, encoded("OGG", subtype, channels=2)):
        path.write_bytes(data + other)
        with pytest.raises(InputError, match="several streams of Ogg in a row"):
            audio_info(path)


def pages(data):
    begin, *others = data.split(b"OggS")
    assert not begin
    return [b"OggS" + page for page in others]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_with_streams_beside_each_other(tmp_path, subtype):
    """The first is read, which others of a film or a caption are beside."""
    path = tmp_path / "a.ogg"
    first, other = (pages(encoded("OGG", subtype)) for _ in range(2))
    mixed = zip(first, other, strict=True)
    path.write_bytes(b"".join(page for both in mixed for page in both))
    assert audio_info(path).samples == len(read_audio(path)) == 48000


def test_a_file_that_is_replaced(tmp_path):
    """By one of the same size and time."""
    path, other = tmp_path / "a.ogg", tmp_path / "b.ogg"
    data = encoded("OGG", "VORBIS")
    other.write_bytes(data + data)
    path.write_bytes(data + bytes(len(data)))
    assert audio_info(path).samples == 48000
    time = path.stat().st_mtime_ns
    os.utime(other, ns=(time, time))
    other.replace(path)
    with pytest.raises(InputError, match="several streams"):
        audio_info(path)
