"""Convolutions with half of the multiplications against the plain form."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cpu import (
    strided_conv,
    winograd as module,
)
from amsincnet_sb.kernels.cpu.winograd import frozen_winograd, winograd


@pytest.fixture(autouse=True)
def slices(monkeypatch):
    """So many waveforms at a time."""
    monkeypatch.setattr(module, "_some", lambda: 4)


def problem(batch, time, channels=5, out=7, taps=3):
    """Input, weight and bias, in float32."""
    generator = torch.Generator().manual_seed(batch * 1000 + time)
    return [
        torch.randn(*shape, generator=generator)
        for shape in [(batch, time, channels), (out, channels, taps), (out,)]
    ]


def plain(x, weight, bias, stride=1):
    """In float64."""
    bias = None if bias is None else bias.double()
    x, weight = x.double(), weight.double()
    y = F.conv1d(x.transpose(1, 2), weight, bias, stride)
    return y.transpose(1, 2)


def calls(monkeypatch, name):
    """A list that grows with each call of a function."""
    made, make = [], getattr(strided_conv, name)
    monkeypatch.setattr(
        strided_conv,
        name,
        lambda *arguments: made.append(1) or make(*arguments),
    )
    return made


@pytest.mark.parametrize("batch", [1, 4, 11])
@pytest.mark.parametrize("time", [3, 4, 5, 6, 7, 8, 108])
def test_as_written(batch, time):
    """However many outputs the last tile lacks."""
    x, weight, bias = problem(batch, time)
    found = frozen_winograd(weight, bias)(x)
    torch.testing.assert_close(
        found.double(), plain(x, weight, bias), rtol=1e-5, atol=2e-5
    )


def test_as_exact_as_onednn_where_channels_are_many():
    x, weight, bias = problem(2, 106, 768, 96)
    weight /= weight[0].numel() ** 0.5
    right = plain(x, weight, bias)
    errors = [
        (y.double() - right).square().mean().sqrt()
        for y in (
            frozen_winograd(weight, bias)(x),
            F.conv1d(x.transpose(1, 2), weight, bias).transpose(1, 2),
        )
    ]
    assert errors[0] < 2 * errors[1]


def test_it_is_a_copy():
    """Later changes of the network do not reach it, nor its input."""
    x, weight, bias = problem(3, 9)
    run, before = frozen_winograd(weight, bias), x.clone()
    found = run(x)
    weight.zero_(), bias.zero_()
    assert torch.equal(run(x), found) and torch.equal(x, before)


@pytest.mark.parametrize(
    "taps, stride, dtype, halved",
    [
        (3, 1, torch.float32, True),
        (3, 2, torch.float32, False),
        (5, 1, torch.float32, False),
        (3, 1, torch.bfloat16, False),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_who_gets_it(monkeypatch, taps, stride, dtype, halved, residual):
    """Wide layers of three taps and stride 1, in float32."""
    made = calls(monkeypatch, "frozen_winograd")
    x, weight, bias = problem(2, 21, 6, 6, taps)
    residual = residual and stride == 1
    for least in (36, 37):
        monkeypatch.setattr(strided_conv, "_HALVED_ALWAYS", least)
        run = strided_conv.frozen_conv(
            weight, bias, stride, 0.2, residual, dtype
        )
        right = F.leaky_relu(plain(x, weight, bias, stride), 0.2)
        if residual:
            right += x[:, taps // 2 : taps // 2 + right.shape[1]]
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(
            run(x).double(), right, rtol=tolerance, atol=tolerance
        )
        assert len(made) == halved


@pytest.mark.parametrize("batch", [1, 11])
@pytest.mark.parametrize("time", [3, 4, 6, 9, 22])
@pytest.mark.parametrize("of_input", [True, False])
def test_gradients(batch, time, of_input):
    x, weight, _ = problem(batch, time)
    grad = torch.randn(batch, time - 2, len(weight))

    def values_of(convolve, dtype):
        """Output and gradients."""
        inputs = [each.detach().clone().to(dtype) for each in (x, weight)]
        wanted = inputs if of_input else inputs[1:]
        for each in wanted:
            each.requires_grad_()
        y = convolve(*inputs)
        return y.detach(), *torch.autograd.grad(y, wanted, grad.to(dtype))

    found = values_of(winograd, torch.float32)
    right = values_of(partial(plain, bias=None), torch.float64)
    for ours, theirs in zip(found, right, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(
            ours.double() / scale, theirs / scale, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("least, halved", [(36, True), (37, False)])
def test_who_trains_with_it(monkeypatch, least, halved):
    """A layer that is wide enough, in float32 and without autocast."""
    made = calls(monkeypatch, "winograd")
    monkeypatch.setattr(strided_conv, "_HALVED", least)
    x, weight, _ = problem(2, 21, 6, 6)
    weight.requires_grad_()
    right = plain(x, weight, None)
    for others in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=others):
            y = strided_conv.conv(x, weight)
        atol = 0.1 if others else 2e-5
        torch.testing.assert_close(y.double(), right, rtol=0.02, atol=atol)
        assert len(made) == halved
    strided_conv.conv(x, weight, 2)
    strided_conv.conv(x, weight.detach())
    strided_conv.conv(x.double(), weight.double())
    assert len(made) == halved
