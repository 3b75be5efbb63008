"""One channel of several, counted from 1, in place of their mean."""

import json

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb import cli
from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def stereo(voice, tmp_path):
    """Ann on the left, bob on the right, at another rate than the model's."""
    wave = torch.stack([voice(300), voice(700)], 1).numpy()
    path = tmp_path / "stereo.wav"
    soundfile.write(path, wave, 8000, "FLOAT")
    return path, wave


def test_a_channel_of_a_file(stereo):
    path, wave = stereo
    for number in (1, 2):
        found = read_audio(path, 5, None, 8000, channel=number)
        np.testing.assert_array_equal(found, wave[5:, number - 1])
    np.testing.assert_allclose(read_audio(path, 0, None, 8000), wave.mean(1))
    for number in (0, 3, -1, "1"):
        with pytest.raises(InputError, match=f"no channel {number!r};.*to 2"):
            read_audio(path, channel=number)


def test_a_channel_of_samples(who, voice):
    ann, bob = voice(300), voice(700)
    for name, number in (("ann", 1), ("bob", 2)):
        who.channel = number
        for audio in (torch.stack([ann, bob]), torch.stack([ann, bob], 1)):
            assert who.identify(audio, 1)[0].speaker == name
    for audio in (ann, ann[None]):
        with pytest.raises(InputError, match="recording: it has no channel 2"):
            who.embed(audio)
    who.channel = 1
    torch.testing.assert_close(who.embed(ann), who.embed(ann[None]))


def test_the_option(saved, voice, tmp_path, capsys):
    both = torch.stack([voice(300), voice(700)], 1)
    soundfile.write(tmp_path / "both.wav", both, 16000)
    line = ["identify", str(saved.folder), str(tmp_path / "both.wav")]
    for name, number in (("ann", "1"), ("bob", "2")):
        assert cli.main([*line, "--channel", number]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["candidates"][0]["speaker"] == name
    assert cli.main([*line, "--channel=3"]) == 2
    assert "both.wav: it has no channel 3" in capsys.readouterr().err
