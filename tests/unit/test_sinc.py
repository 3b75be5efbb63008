"""Sinc filters against their formula."""

import copy
import math

import numpy as np
import pytest
import torch
from speechbrain.nnet import CNN

from amsincnet_sb.nnet.sinc import SincConv


@pytest.mark.parametrize("n, rate", [(2, 8000), (3, 44100), (80, 16000)])
def test_mel_grid(n, rate):
    layer = SincConv(n, 5, rate, min_low_hz=0.0, min_band_hz=0.0)
    low, high = (hz.numpy() for hz in layer.cutoffs_hz())
    top = 2595 * math.log10(1 + rate / 1400)
    mels = np.linspace(80, top, n)
    # The points i - 1 and i + 1 of the grid; ends of their own.
    hz = 700 * (10 ** (mels / 2595) - 1)
    np.testing.assert_allclose(low, [30, *hz[:-1]], rtol=1e-6)
    np.testing.assert_allclose(high, [*hz[1:], rate / 2 - 100], rtol=1e-6)


def test_cutoffs_keep_their_least_values():
    layer = SincConv(3, 11, 16000, min_low_hz=50.0, min_band_hz=25.0)
    with torch.no_grad():
        layer.low.copy_(torch.tensor([0.0, -0.01, 0.01]))
        layer.band.copy_(torch.tensor([0.0, -0.02, 0.4]))
    low, high = layer.cutoffs_hz()
    torch.testing.assert_close(low, torch.tensor([50.0, 210.0, 210.0]))
    # Nothing clamps at half the sample rate.
    torch.testing.assert_close(high, torch.tensor([75.0, 555.0, 6635.0]))
    assert not low.requires_grad


@pytest.mark.parametrize("stride", [1, 3])
def test_convolution_is_a_correlation_without_padding(stride):
    torch.manual_seed(0)
    layer = SincConv(4, 9, stride=stride).double()
    x = torch.randn(2, 30, dtype=torch.float64)
    filters = layer.filters().detach().numpy()
    y = layer(x).detach().numpy()
    expected = [
        [np.correlate(row, f, "valid")[::stride] for f in filters]
        for row in x.numpy()
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), layer(x.unsqueeze(1)))


@pytest.mark.parametrize("kind", [SincConv, CNN.SincConv])
def test_20_steps_move_the_cutoffs(kind):
    """Ours by about 100 Hz; those of SpeechBrain's SincConv by 0.02 Hz."""
    torch.manual_seed(0)
    if kind is SincConv:
        layer = SincConv(80, 251)
    else:
        layer = kind(80, 251, input_shape=(2, 800), padding="valid")

    def low_hz():
        if kind is SincConv:
            return layer.cutoffs_hz()[0].clone()
        return layer.low_hz_.detach().flatten().clone()

    x, before = 0.1 * torch.randn(2, 800), low_hz()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (-layer(x).square().mean()).backward()
        optimizer.step()
    moved = (low_hz() - before).abs().mean().item()
    expected = 100 if kind is SincConv else 0.02
    assert moved == pytest.approx(expected, rel=0.3)


def test_autocast_leaves_the_filters_exact():
    layer = SincConv(20, 101)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer.filters()
        y = layer(torch.randn(1, 200))
    assert y.dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer.filters())


def test_double_and_float_agree_and_nothing_but_cutoffs_is_stored():
    layer = SincConv(10, 251)
    assert set(layer.state_dict()) == {"low", "band"}
    twin = copy.deepcopy(layer).double()
    assert twin.filters().dtype == torch.float64
    torch.testing.assert_close(
        twin.filters().float(), layer.filters(), rtol=0, atol=2e-6
    )


def test_wrong_arguments():
    with pytest.raises(ValueError, match="odd"):
        SincConv(kernel_size=250)
    with pytest.raises(ValueError, match="at least 2"):
        SincConv(out_channels=1)
