"""SincFeatures: frames at the right time, bands at the right frequency."""

import math

import numpy as np
import pytest
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.processing.features import (
    InputNormalization,
    make_padding_mask,
)

from amsincnet_sb.lobes.features import SincFeatures
from amsincnet_sb.utils.errors import InputError

SMALL = {"out_channels": 6, "kernel_size": 101}


def waves(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator)


def tone(hz, seconds=1.0, phase=0.3, sample_rate=16000):
    at = torch.arange(int(seconds * sample_rate)) / sample_rate
    return torch.sin(2 * math.pi * hz * at + phase)[None]


@pytest.mark.parametrize("stride", [1, 10, 16])
@pytest.mark.parametrize("hz", [1000, 3333, 4000])
def test_a_tone_has_its_power_at_any_stride(stride, hz):
    features = SincFeatures(stride=stride)
    y = features(tone(hz))[0, 5:-5]
    band = int(y.mean(0).argmax())
    low, high = features.sinc.cutoffs_hz()
    assert low[band] < hz < high[band]
    # A sine of height one has a power of one half; no beat with the stride.
    assert y[:, band].mean().item() == pytest.approx(-3.01, abs=0.9)
    assert y[:, band].std() < 0.01
    far = (low > 2 * hz) | (high < hz / 2)
    assert y[:, far].max() < -35


def test_frame_by_frame():
    features = SincFeatures(**SMALL, win_length=20).double()
    x = waves(1, 3000).double()
    y = features(x)[0].detach()
    filters = features.filters().detach().numpy()
    assert y.shape == (19, 6)  # 18.75
    wave = np.pad(x[0].numpy(), (300, 600))
    for frame in range(19):
        powers = np.zeros(6)
        first = 160 * frame + 80 - 160  # half a window before its middle
        for at in range(first, first + 320, 10):
            heard = wave[300 + at - 50 : 300 + at + 51]
            both = (filters @ heard) ** 2
            powers += (both[:6] + both[6:]) / 2 / 32
        expected = torch.tensor(10 * np.log10(powers + 1e-10))
        torch.testing.assert_close(y[frame], expected)


@pytest.mark.parametrize("time", [1, 160, 1600, 1679])
def test_a_frame_every_10_ms(time):
    features = SincFeatures(**SMALL)
    y = features(waves(2, time))
    frames = math.ceil(time / 160)
    assert y.shape == (2, frames, 6)
    assert torch.equal(features(waves(2, time).unsqueeze(-1)), y)
    torch.testing.assert_close(features(waves(2, time), torch.ones(2)), y)
    assert y.isfinite().all()


@pytest.mark.parametrize("filler", [0.0, 1e6, float("nan")])
def test_padding_changes_nothing(filler):
    features = SincFeatures(**SMALL)
    lengths = [1, 100, *range(1500, 3200, 61), 4001, 8000]
    recordings = [waves(n, seed=n) for n in lengths]
    padded = torch.full((len(lengths), 8000), filler)
    for row, wave in zip(padded, recordings):
        row[: len(wave)] = wave
    lens = torch.tensor(lengths) / 8000
    y = features(padded, lens)
    assert y.isfinite().all()
    # As many frames of each as SpeechBrain's modules make of lens
    counts = make_padding_mask(y, lens).squeeze(-1).sum(1)
    assert torch.equal(counts, length_to_mask(lens * 50, 50).sum(1).long())
    norm = InputNormalization(norm_type="sentence", std_norm=False)
    for row, normed, wave, count in zip(
        y, norm(y, lens), recordings, counts, strict=True
    ):
        alone = features(wave[None])
        assert alone.shape[1] == count
        torch.testing.assert_close(row[:count], alone[0], atol=1e-5, rtol=0)
        alone = norm(alone, torch.ones(1))[0]
        torch.testing.assert_close(normed[:count], alone, atol=1e-4, rtol=0)
    if filler == 0.0:  # the batches of SpeechBrain's scripts, without lens
        torch.testing.assert_close(features(padded), y)


@pytest.mark.parametrize("shape", [(1,), (3, 1), (4,)])
def test_a_length_for_each(shape):
    """One alone was taken for all."""
    with pytest.raises(InputError, match="SincFeatures: lens have the shape"):
        SincFeatures(4)(torch.zeros(3, 1600), torch.ones(shape))


def test_filters_learn():
    features = SincFeatures(out_channels=20)
    x = waves(4, 4000)
    features(x).square().mean().backward()
    assert all(p.grad.any() for p in features.parameters())
    fixed = SincFeatures(out_channels=20, requires_grad=False)
    assert not fixed(x).requires_grad
    torch.testing.assert_close(fixed(x), features(x).detach())


def test_silence_has_no_gradient_but_no_nan_either():
    features = SincFeatures(**SMALL)
    y = features(torch.zeros(2, 4000))
    torch.testing.assert_close(y, torch.full_like(y, -100.0))
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in features.parameters())


def test_param_change_factor():
    features = SincFeatures(**SMALL, param_change_factor=0.25)
    before = [hz.clone() for hz in features.sinc.cutoffs_hz()]
    with torch.no_grad():
        features.sinc.low += 0.01  # 160 Hz
    for hz, start in zip(features.sinc.cutoffs_hz(), before):
        torch.testing.assert_close(hz, start + 160 * 0.25)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_a_state_says_how_far_its_filters_moved(factor, caplog):
    trained = SincFeatures(**SMALL, param_change_factor=0.25)
    with torch.no_grad():
        trained.sinc.low += 0.01
        trained.sinc.band += 0.02
    state = trained.state_dict()
    loaded = SincFeatures(**SMALL, param_change_factor=factor)
    loaded.load_state_dict(state)
    cutoffs = trained.sinc.cutoffs_hz(), loaded.sinc.cutoffs_hz()
    torch.testing.assert_close(*cutoffs, rtol=0, atol=0.01)
    if factor == 0.25:  # a resumed run, bit for bit
        assert torch.equal(loaded.sinc.low, trained.sinc.low)
    # What it saves is its own.
    again = SincFeatures(**SMALL, param_change_factor=0.25)
    again.load_state_dict(loaded.state_dict())
    cutoffs = trained.sinc.cutoffs_hz(), again.sinc.cutoffs_hz()
    torch.testing.assert_close(*cutoffs, rtol=0, atol=0.01)
    assert not caplog.records
    del state["sinc.factor_bits"]
    again.load_state_dict(state)
    assert "does not say its param_change_factor" in caplog.text


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"param_change_factor": 0}, "param_change_factor"),
        ({"stride": 7}, "hop_length is 160 samples"),
        ({"stride": 320}, "stride"),
        ({"sample_rate": 44100}, "441 samples"),
        ({"sample_rate": 22050}, "220.5 samples.*hop_length of whole samples"),
        ({"win_length": 5}, "win_length"),
    ],
)
def test_wrong_arguments(changes, word):
    with pytest.raises(ValueError, match=word):
        SincFeatures(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "rate, stride, taps", [(8000, 10, 127), (44100, 9, 691)]
)
def test_other_sample_rates(rate, stride, taps):
    features = SincFeatures(sample_rate=rate, stride=stride, kernel_size=taps)
    y = features(tone(1000, sample_rate=rate))[0, 5:-5]
    assert y.shape[0] == 90
    assert y.mean(0).max().item() == pytest.approx(-3, abs=2.5)


def test_only_frozen_features_are_stored():
    """Cached, as by SpeechBrain's template, they would silently not learn."""
    wavs = torch.zeros(1, 800)
    with pytest.raises(RuntimeError, match="requires grad"):
        np.asarray(SincFeatures(8)(wavs))
    stored = np.asarray(SincFeatures(8, requires_grad=False)(wavs))
    assert stored.shape == (1, 5, 8)
