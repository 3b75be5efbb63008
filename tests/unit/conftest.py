"""A small model that tells tones apart, for the tests of inference."""

import pytest
import torch
import torch.nn.functional as F

from amsincnet_sb.inference import window_averages
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.sincnet import SincNet

SMALL = {
    "window": 200,
    "hop": 50,
    "cnn_channels": [8, 6],
    "cnn_kernel_sizes": [51, 5],
    "cnn_pools": [3, 3],
    "fc_neurons": [32, 16],
    "linear_embedding": True,
    "released_init": False,
}


@pytest.fixture(autouse=True, scope="session")
def _answers_in_float32():
    """The same on every CPU, and as exact as the tests are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_averages, "has_bfloat16", lambda device: False)
        yield


def _voice(pitch, seconds=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * 16000)) / 16000
    noise = torch.randn(len(time), generator=generator)
    return 0.3 * torch.sin(2 * torch.pi * pitch * time) + 0.01 * noise


@pytest.fixture(scope="session")
def voice():
    """A function of pitch, seconds and seed: a tone in noise, 16 kHz."""
    return _voice


@pytest.fixture(scope="session")
def small():
    """Arguments of a small SincNet."""
    return SMALL


@pytest.fixture(scope="session")
def models():
    """A SincNet taught five voices, and a classifier of two of them."""
    torch.manual_seed(0)
    net, five = SincNet(**SMALL), CosineClassifier(16, 5)
    learn = torch.optim.Adam([*net.parameters(), *five.parameters()], 5e-3)
    for step in range(60):
        windows = [
            _voice(pitch, 0.05, 5 * step + i).unfold(0, 200, 50)
            for i, pitch in enumerate((300, 700, 1500, 2500, 4000))
        ]
        labels = torch.arange(5).repeat_interleave(len(windows[0]))
        scores = five(net(torch.cat(windows))).squeeze(1)
        learn.zero_grad()
        F.cross_entropy(10 * scores, labels).backward()
        learn.step()
    net.eval().requires_grad_(False)
    two = CosineClassifier(16, 2).requires_grad_(False)
    two.weight.copy_(five.weight[:2])
    return net, two


@pytest.fixture
def who(models):
    """It knows ann, of 300 Hz, and bob, of 700."""
    return SpeakerIdentifier(*models, ["ann", "bob"], scale=10.0)


@pytest.fixture
def saved(models, voice, tmp_path):
    """The same in a folder, with an enrolled speaker and a threshold."""
    write_pretrained(tmp_path / "pretrained", *models, ["ann", "bob"], 10.0)
    loaded = SpeakerIdentifier.from_results(tmp_path)
    loaded.enroll("çat", [voice(2500)])
    loaded.calibration = {"verification": {"threshold": 0.25}}
    loaded.save()
    return loaded


@pytest.fixture
def analyse():
    """The analysis of one recording."""

    def one(model, recording):
        (found,) = model.analyse_all([recording])
        return found

    return one
