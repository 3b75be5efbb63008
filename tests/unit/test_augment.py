"""Augmentation: its effect on a signal, and none in evaluation."""

import pytest
import torch

from amsincnet_sb.nnet import channels
from amsincnet_sb.nnet.augmentation import (
    BandMask,
    RandomEqualizer,
    RandomMixture,
    RandomSpeed,
)


def channel(*responses):
    return channels.RandomChannel(responses)


@pytest.mark.parametrize(
    "module, shape",
    [
        (RandomEqualizer(6.0), (4, 3200)),
        (RandomMixture(1.0), (4, 3200)),
        (RandomSpeed(), (4, 3200)),
        (BandMask(20), (4, 30, 80)),
        (channels.RandomNoise(1.0), (8, 3200)),
        (channels.RandomBabble(1.0), (8, 3200)),
        (channels.RandomModulatedNoise(1.0), (8, 3200)),
        (channels.RandomClipping(1.0), (8, 3200)),
        (channel(RandomEqualizer(3.0)), (8, 3200)),
        (
            channel(channels.RandomBand(1.0), channels.RandomDelay(1.0)),
            (8, 3200),
        ),
        (channel(channels.RandomBandwidth(1.0)), (8, 3200)),
        (channel(channels.RandomReverberation(1.0)), (8, 3200)),
    ],
)
def test_evaluation_repetition_and_silence(module, shape):
    x = torch.randn(shape)
    assert torch.equal(module.eval()(x), x)
    module.train()
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    assert module(torch.zeros(shape)).abs().max() < 1e-3


def test_an_equalizer_changes_the_response_and_nothing_else():
    torch.manual_seed(0)
    time = torch.arange(3200) / 16000
    tones = torch.stack([torch.sin(6.2831853 * f * time) for f in (500, 5000)])
    equalize = RandomEqualizer(std_db=6.0)
    torch.manual_seed(1)
    wavs = tones.sum(0).expand(200, -1)
    out = equalize(wavs)
    gains = 2 * (out @ tones.t()) / 3200
    in_db = 20 * gains.log10()
    # Less than 6 between two points
    assert 3.5 < in_db.std(0)[0] < 7.0
    rebuilt = gains @ tones
    assert (out - rebuilt).norm() < 0.01 * out.norm()


def test_a_mixture_keeps_the_ratio_of_powers():
    torch.manual_seed(0)
    wavs = torch.randn(6, 3200)
    out = RandomMixture(1.0, 10.0, 10.0)(wavs)
    noise = out - wavs
    snr = 10 * (wavs.square().mean(1) / noise.square().mean(1)).log10()
    torch.testing.assert_close(snr, torch.full((6,), 10.0))
    cosine = torch.cosine_similarity(noise, wavs.roll(1, 0))
    torch.testing.assert_close(cosine, torch.ones(6))
    some = RandomMixture(0.5)(wavs.repeat(100, 1))
    mixed = (some != wavs.repeat(100, 1)).any(1).float().mean()
    assert 0.4 < mixed < 0.6
    silent = RandomMixture(1.0)(torch.zeros(3, 3200))
    assert torch.equal(silent, torch.zeros(3, 3200))


def test_speed_moves_frequencies_and_keeps_their_level():
    """Every example by its own factor, uniformly distributed."""
    torch.manual_seed(0)
    time = torch.arange(3200) / 16000
    tones = sum(torch.sin(6.2831853 * hz * time) for hz in (500, 3000))
    out = RandomSpeed(0.06)(tones.expand(300, -1))
    spectra = torch.fft.rfft(out * torch.hann_window(3200), 64000).abs()
    low = spectra[:, :4000].argmax(1) / 4 / 500
    high = (spectra[:, 4000:].argmax(1) + 4000) / 4 / 3000
    torch.testing.assert_close(low, high, rtol=0, atol=2e-3)
    assert 0.94 <= high.min() < 0.945 and 1.055 < high.max() <= 1.06
    assert high.mean().item() == pytest.approx(1, abs=0.01)
    levels = out.square().mean(1)
    torch.testing.assert_close(levels, torch.ones(300), rtol=0, atol=0.02)


def test_speed_stays_within_the_recording():
    """Exact where the tones are low; short and unchanged ones, too."""
    torch.manual_seed(0)
    time = torch.arange(3200.0)
    wavs = torch.cos(0.05 * (time - 1599.5)).expand(50, -1)
    out = RandomSpeed(0.05)(wavs)
    near = {"rtol": 0, "atol": 0.02}
    # Arc cosines fall and rise as the angle does.
    angles = out[:, 1600:1630].acos()
    factors = (angles[:, -1] - angles[:, 0]) / 29 / 0.05
    want = torch.cos(0.05 * factors[:, None] * (time - 1599.5))
    torch.testing.assert_close(out[:, 200:3000], want[:, 200:3000], **near)
    assert out.abs().max() < 1.1
    for size in (1, 2, 9):
        assert RandomSpeed(0.4)(torch.ones(3, size)).shape == (3, size)
    wavs = torch.randn(200, 400)
    some = RandomSpeed(0.06, probability=0.3)(wavs)
    same = torch.isclose(some, wavs, atol=1e-5).all(1).float().mean()
    assert 0.6 < same < 0.8
    assert torch.equal(RandomSpeed(0.0)(wavs), wavs)


def test_a_band_mask_silences_neighbours():
    torch.manual_seed(0)
    x = torch.ones(500, 3, 80)
    masked = BandMask(20)(x) == 0
    assert torch.equal(masked, masked[:, :1].expand(-1, 3, -1))
    width = masked[:, 0].sum(1)
    assert width.max() == 20 and abs(width.float().mean() - 10) < 1
    edges = masked[:, 0].int().diff(dim=1).abs().sum(1)
    assert edges.max() <= 2
    assert masked.any(0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomEqualizer(-1.0),
        lambda: RandomMixture(1.5),
        lambda: RandomSpeed(0.6),
        lambda: RandomSpeed(probability=-0.1),
        lambda: BandMask(-1),
    ],
)
def test_wrong_arguments(make):
    with pytest.raises(ValueError, match="must"):
        make()
