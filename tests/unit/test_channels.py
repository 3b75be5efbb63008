"""Random channels: what each does to a signal."""

import numpy as np
import pytest
import scipy.signal
import torch

from amsincnet_sb.nnet.channels import (
    RandomBabble,
    RandomBand,
    RandomBandwidth,
    RandomChannel,
    RandomClipping,
    RandomDelay,
    RandomModulatedNoise,
    RandomNoise,
    RandomReverberation,
)

HZ = np.arange(1601) * 5.0


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def decibels(power):
    return 10 * power.log10()


def response(module, *shape):
    """As complex numbers."""
    log_gain, phase = module.response(torch.zeros(*shape))
    bins = torch.zeros(shape[0], shape[1] // 2 + 1)
    return torch.polar((bins + log_gain).exp(), bins + phase)


@pytest.mark.parametrize(
    "kind", [RandomNoise, RandomBabble, RandomModulatedNoise, RandomClipping]
)
def test_probability(kind):
    x = torch.randn(2000, 400)
    changed = (kind(0.3)(x) != x).any(1).float().mean()
    assert 0.25 < changed < 0.35
    assert torch.equal(kind(0.0)(x), x)
    with pytest.raises(ValueError, match="probability is 1.5"):
        kind(1.5)


def test_noise_has_its_level_and_its_colour():
    x = torch.randn(64, 3200)
    noise = RandomNoise(1.0, 10.0, 10.0, max_slope=2.0)(x) - x
    snr = decibels(x.square().mean(1) / noise.square().mean(1))
    torch.testing.assert_close(snr, torch.full((64,), 10.0))
    power = torch.fft.rfft(noise).abs().square()
    low, high = power[:, 40:200].mean(1), power[:, 400:1600].mean(1)
    fall = decibels(low / high)
    assert -1 < fall.min() < 2 and 12 < fall.max() < 20


def test_babble_is_of_others():
    x = torch.zeros(8, 800)
    x[:, :400] = torch.randn(8, 400) * torch.arange(1, 9)[:, None]
    babble = RandomBabble(1.0, 0.0, 0.0, voices=3)(x) - x
    ratio = babble.square().mean(1) / x.square().mean(1)
    torch.testing.assert_close(ratio, torch.ones(8))
    spectra = torch.fft.rfft(x / x.norm(dim=1, keepdim=True))
    # Three others, shifted by a quarter, a half and three quarters.
    shifted = sum(
        spectra.roll(n, 0) * torch.exp(-0.5j * torch.pi * n * torch.arange(401))
        for n in (1, 2, 3)
    )
    expected = torch.fft.irfft(shifted, 800)
    cosine = torch.cosine_similarity(babble, expected)
    torch.testing.assert_close(cosine, torch.ones(8))


def test_in_a_small_batch_babble_is_of_others_too():
    x = torch.sin(torch.arange(1, 4)[:, None] * torch.arange(800) * 0.3)
    babble = RandomBabble(1.0, 0.0, 0.0, voices=6)(x) - x
    own = torch.cosine_similarity(
        torch.fft.rfft(babble).abs(), torch.fft.rfft(x).abs()
    )
    assert own.max() < 0.1
    assert torch.equal(RandomBabble(1.0)(x[:1]), x[:1])


@pytest.mark.parametrize(
    "kind, wrong",
    [
        (RandomBand, {"low_hz": (0, 500)}),
        (RandomBand, {"high_hz": (900, 500)}),
        (RandomBandwidth, {"high_hz": (0, 500)}),
        (RandomReverberation, {"rt60": (0.0, 1.0)}),
        (RandomReverberation, {"dense": (0.1,)}),
    ],
)
def test_ranges_that_are_none(kind, wrong):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .* be a range"):
        kind(**wrong)


def test_modulated_noise_is_in_proportion():
    x = torch.full((50, 2000), 0.5)
    x[:, 1000:] = 0.0
    noise = RandomModulatedNoise(1.0, 20.0, 20.0)(x) - x
    assert torch.equal(noise[:, 1000:], torch.zeros(50, 1000))
    q = decibels(x[:, :1000].square().mean() / noise[:, :1000].square().mean())
    assert q.item() == pytest.approx(20, abs=0.2)


def test_clipping_cuts_the_peaks_alone():
    x = torch.randn(50, 1000)
    y = RandomClipping(1.0, max_db=12.0)(x)
    most = y.abs().amax(1, keepdim=True)
    torch.testing.assert_close(y, x.clamp(-most, most))
    excess = -2 * decibels(most / x.abs().amax(1, keepdim=True))
    assert 0 <= excess.min() and 9 < excess.max() <= 12.01


def test_a_band_is_made_of_analogue_sections():
    edges = {"low_hz": (300, 300.001), "high_hz": (3400, 3400.001)}
    band = RandomBand(1.0, sections=1, **edges)
    found = response(band, 400, 3200).numpy()
    # Of second order, with Q from 0.5 to 1.4.
    at = np.abs(found[:, [60, 680]])
    assert 0.5 < at.min() < 0.6 and 1.2 < at.max() < 1.41
    for section in found[:3]:
        q = np.abs(section[60]), np.abs(section[680])
        s = 2j * np.pi * (HZ + 1e-3)
        low, high = 2 * np.pi * 300, 2 * np.pi * 3400
        _, first = scipy.signal.freqs(
            [1, 0, 0], [1, low / q[0], low**2], s.imag
        )
        _, second = scipy.signal.freqs(
            [high**2], [1, high / q[1], high**2], s.imag
        )
        assert np.abs(section - first * second).max() < 0.02
    steep = RandomBand(1.0, sections=4, **edges)
    falls = np.abs(response(steep, 400, 3200).numpy()[:, 20])
    # An octave and a half below the edge: 12 dB and more for each section.
    assert falls.max() > 0.07 and falls.min() < 1e-3
    nothing = response(RandomBand(0.0), 4, 3200)
    assert torch.equal(nothing, torch.ones(4, 1601) + 0j)


def test_a_delay_leaves_magnitudes_alone():
    delay = RandomDelay(1.0, cycles=1.0, max_ms=4.0)
    found = response(delay, 500, 3200)
    torch.testing.assert_close(found.abs(), torch.ones(500, 1601))
    step = (found[:, 1:] * found[:, :-1].conj()).angle()
    group = -step / (2 * torch.pi * 5.0)  # seconds, bins of 5 Hz
    deviation = group.std(0)
    # Uniform up to a cycle: a third of a cycle's square on average.
    for hz in (500, 2000, 6000):
        assert 0.4 < deviation[hz // 5] * hz < 0.75
    assert 0.4 < deviation[10] / 0.004 < 0.75
    assert (step.diff().abs() < 0.3).all()  # smooth


def test_a_room_decays_as_it_says():
    room = RandomReverberation(1.0, (0.2, 0.2001), (3.0, 3.0001))
    tail = torch.fft.irfft(response(room, 300, 8000), 8000)
    direct, tail = tail[:, 0].clone(), tail[:, 1:]
    torch.testing.assert_close(direct, torch.ones(300), atol=0.01, rtol=0)
    ratio = decibels(tail.square().sum(1).reciprocal())
    torch.testing.assert_close(ratio, torch.full((300,), 3.0), atol=0.1, rtol=0)
    power = tail.square().mean(0)
    early, late = power[160:480].mean(), power[1760:2080].mean()
    assert decibels(early / late).item() == pytest.approx(30, abs=1.0)
    # Single reflections before 10 ms at the earliest.
    share = [
        (tail[:, n : n + 16].abs() > 1e-4).float().mean() for n in (40, 1000)
    ]
    assert share[0] < 0.2 and share[1] > 0.95


def test_a_channel_multiplies_its_responses():
    class Response(torch.nn.Module):
        def __init__(self, *found):
            super().__init__()
            self.response = lambda wavs: found

    half = Response(torch.tensor(0.5).log(), 0.0)
    later = Response(0.0, -0.5 * torch.pi * torch.arange(201))  # by a quarter
    x = torch.randn(3, 400)
    y = RandomChannel([half, later])(x)
    torch.testing.assert_close(y, 0.5 * x.roll(100, 1), atol=1e-4, rtol=0)


def test_a_bandwidth_is_steep():
    limit = RandomBandwidth(1.0, (4000.0, 4000.001), slope_hz=200.0)
    found = response(limit, 3, 3200)
    assert (found[:, :780] == 1).all() and found[:, 820:].abs().max() < 2e-4
    at_the_limit = found[:, 800].real
    torch.testing.assert_close(at_the_limit, torch.full((3,), 0.5))
