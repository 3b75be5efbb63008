"""Normalisation over time against its formula in float64."""

import pytest
import reference
import torch

from amsincnet_sb.nnet.normalization import TimeLayerNorm


@pytest.mark.parametrize("shape", [7, (7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_formula(shape, eps):
    torch.manual_seed(0)
    layer = TimeLayerNorm(shape, eps=eps).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    full = (shape,) if isinstance(shape, int) else shape
    assert layer.weight.shape == layer.bias.shape == full
    x = 2 + 3 * torch.randn(5, *full, dtype=torch.float64)
    expected = reference.time_norm(x, layer.weight, layer.bias, eps)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_input_gives_the_bias_and_finite_gradients(value, dtype):
    layer = TimeLayerNorm(64).to(dtype)
    torch.nn.init.constant_(layer.bias, 0.25)
    x = torch.full((2, 64), value, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    if value in (0.0, 1.0):  # the mean of the others is rounded
        assert torch.equal(y, torch.full_like(y, 0.25))
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_quiet_speech_is_normalised_all_the_same():
    # One step of 16 bits up and down.
    x = torch.tensor([[1.0, -1.0] * 100]) / 32768
    y = TimeLayerNorm(200)(x)
    assert y.std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    layer = TimeLayerNorm((3, 500))
    x = (torch.randn(2, 3, 500) + 50).to(dtype)
    y = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, layer(x.float()))
