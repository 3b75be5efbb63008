"""SincTDNN: all forms against the formulas."""

import copy

import pytest
import reference
import torch

from amsincnet_sb.lobes.frozen import for_evaluation
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN

SMALL = {
    "window": 800,
    "sinc_channels": 20,
    "sinc_kernel_size": 51,
    "tdnn_channels": [16, 24, 24],
    "tdnn_kernel_sizes": [5, 4, 3],
    "tdnn_strides": [3, 2, 1],
    "fc_neurons": [12, 8],
    "dropout": 0.0,
}


def make_net(dtype=torch.float64, **more):
    net = SincTDNN(**{**SMALL, **more})
    return reference.as_if_trained(net).to(dtype)


def audio(net, batch, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(batch, net.window, dtype=dtype)


@pytest.mark.parametrize("log_floor", [0.01, 0.0])
@pytest.mark.parametrize("sinc_pool", [1, 2, 3])
@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_is_the_formula(log_floor, sinc_pool, of_input, fast, norm):
    """Values and all gradients in training mode; values in evaluation."""
    net = make_net(
        log_floor=log_floor, sinc_pool=sinc_pool, fast=fast, sinc_norm=norm
    )
    x = audio(net, 5).requires_grad_(of_input)
    leaves = [*net.parameters(), *([x] if of_input else [])]
    want = reference.sinc_tdnn(net, x)
    direction = torch.randn_like(want)
    wanted = torch.autograd.grad(want, leaves, direction)
    with torch.no_grad():
        expected = reference.sinc_tdnn(net.eval(), x)
        torch.testing.assert_close(net(x).squeeze(1), expected)
    got = net.train()(x).squeeze(1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for a, b in zip(torch.autograd.grad(got, leaves, direction), wanted):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_fast_form_in_bfloat16_is_as_good_as_the_plain_one():
    net = make_net(torch.float32, fc_neurons=[64, 32]).eval()
    x = audio(net, 32, torch.float32)
    exact = copy.deepcopy(net).double()(x.double())
    distance = {}
    for net.fast in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            distance[net.fast] = reference.relative(net(x), exact)
    assert distance[True] < 0.05
    assert distance[True] < 1.5 * distance[False]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"window": 60}, "too short"),
        ({"tdnn_strides": [1]}, "equal length"),
        ({"sinc_pool": 0}, "sinc_pool"),
        ({"sinc_norm": "group"}, "layer, batch"),
    ],
)
def test_wrong_arguments(arguments, word):
    with pytest.raises(ValueError, match=word):
        SincTDNN(**{**SMALL, **arguments})


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_statistics_of_several_processes(norm):
    """sync_batchnorm changes the modules of a network, not what they do."""
    net = make_net(torch.float32, sinc_norm=norm).eval()
    x = audio(net, 4, torch.float32)
    expected = net(x)
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for net.fast in (True, False):
        torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(for_evaluation(net)(x), expected)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_masked_filters(norm):
    """Zeros, in the same places in every form; no gradient beneath them."""
    net = make_net(band_mask=10, sinc_norm=norm).train()
    x = audio(net, 4)
    maps = []
    for net.fast in (True, False):
        torch.manual_seed(3)
        maps.append(net.sinc_map(x))
        torch.manual_seed(3)
        keep = net.band_mask.draw(4, 20, x.device)
        assert maps[-1].transpose(1, 2)[~keep].eq(0).all()
        assert maps[-1].transpose(1, 2)[keep].ne(0).any(1).all()
        (gradient,) = torch.autograd.grad(maps[-1].sum(), net.sinc_norm.weight)
        lost = ~keep.any(0)
        assert gradient[lost].eq(0).all() and gradient[~lost].ne(0).any()
    torch.testing.assert_close(*maps)
    assert net.eval().band_mask.draw(4, 20, x.device) is None
