"""Features in the place of the filters, against SpeechBrain's."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank, Leaf
from speechbrain.nnet.normalization import ExponentialMovingAverage

from amsincnet_sb.nnet.frame_features import LeafFeatures, MelFeatures


@pytest.mark.parametrize("kind", [MelFeatures, LeafFeatures])
@pytest.mark.parametrize(
    "sizes, message",
    [((8, 30), "be odd"), ((99, 65535), "too many"), ((9999, 3), "too many")],
)
def test_features_refuse(kind, sizes, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .*{message}"):
        kind(*sizes, 16000, 3)


def test_mel_features_are_speechbrains():
    ours = MelFeatures(80, 251, 16000, 3)
    assert (ours.matrix.sum(0) > 0).all()
    milliseconds = {"win_length": 251 / 16, "hop_length": 3 / 16}
    theirs = Fbank(n_mels=80, n_fft=512, **milliseconds)
    # Its window of an odd length lies one sample earlier.
    x = torch.randn(2, 3200) * torch.linspace(0.1, 1, 3200)
    expected = theirs(x[:, 1:])[:, 42 : 42 + 983]
    found = ours(x)
    assert found.shape == (2, 80, 983)
    difference = found - expected.transpose(1, 2)
    assert difference.abs().max() < 0.01  # dB


@pytest.mark.parametrize("pool", [2, 3, 4])
def test_a_frame_lies_in_the_middle_of_its_pool(pool):
    x = torch.full((1, 400), 1e-3)
    x[0, 200] = 1.0
    found = MelFeatures(8, 31, 16000, pool)(x).sum(1)
    peak = (F.max_pool1d(x.unfold(1, 31, 1)[..., 15], pool)).argmax()
    assert abs(found.argmax() - peak) <= 1


def test_leaf_survives_an_offset_that_falls():
    """SpeechBrain's PCEN takes a root of it: below 0 nothing is a number."""
    leaf = LeafFeatures(3, 31, 16000, 40)
    with torch.no_grad():
        leaf.leaf.compression.delta.fill_(-2.0)
    leaf = pickle.loads(pickle.dumps(leaf))  # as processes pass it on
    found = leaf(torch.randn(2, 800))
    found.sum().backward()
    assert found.isfinite().all()
    assert all(p.grad.isfinite().all() for p in leaf.parameters())


def test_leaf_is_speechbrains():
    """But for its moving average, which it has for frames of 10 ms."""
    ours = LeafFeatures(10, 51, 16000, 160)
    theirs = Leaf(
        10,
        window_len=50.5 / 16,
        window_stride=10,
        in_channels=1,
        n_fft=2048,
    )
    kernel = ours.leaf.complex_conv.kernel
    with torch.no_grad():
        theirs.complex_conv.kernel.copy_(kernel)
        assert torch.equal(
            theirs.complex_conv._gabor_constraint(kernel), kernel
        )
    x = torch.randn(2, 3200)
    expected = theirs(x).transpose(1, 2)
    found = ours.features(x).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    log = LeafFeatures(10, 51, 16000, 160, pcen=False)
    theirs.compression = None
    torch.testing.assert_close(
        log.features(x), theirs(x).log(), rtol=1e-3, atol=1e-4
    )


def test_the_moving_average_is_as_slow_with_more_frames():
    slow = LeafFeatures(3, 31, 16000, 40).leaf.compression.ema
    x = torch.rand(2, 3, 45).repeat_interleave(4, dim=2)
    expected = ExponentialMovingAverage(
        3, per_channel=True, skip_transpose=True
    )(x[:, :, ::4])
    torch.testing.assert_close(slow(x)[:, :, 3::4], expected)
