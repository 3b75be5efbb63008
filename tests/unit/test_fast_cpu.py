"""The kernels for CPUs against the plain formulas, values and gradients."""

import copy
import inspect

import pytest
import reference
import torch
import torch.nn.functional as F

from amsincnet_sb.kernels import Kernels, cpu, cuda, kernels_for
from amsincnet_sb.kernels.cpu import feature_maps, linear_layer, strided_conv
from amsincnet_sb.lobes.frozen import (
    Folded,
    FoldedTDNN,
    fold_batchnorm,
    for_evaluation,
)
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet

# window, channels, taps, pools
ARCHITECTURES = {
    "released": (3200, (80, 60, 60), (251, 5, 5), (3, 3, 3)),
    "pool 2, 1, 5 and four layers": (
        *(800, (8, 6, 5, 4), (31, 5, 3, 3), (2, 1, 5, 2)),
    ),
    "pool 4, rest of the window unused": (401, (7, 6), (129, 5), (4, 3)),
    "no pooling, sinc layer alone": (301, (7,), (33,), (1,)),
    "pool longer than the filters": (300, (7,), (3,), (5,)),
    "short window": (80, (3, 2), (33, 3), (3, 3)),
}


def make_net(name, dtype=torch.float32, fc_neurons=(8, 4), **more):
    window, channels, taps, pools = ARCHITECTURES[name]
    net = SincNet(
        window=window,
        cnn_channels=channels,
        cnn_kernel_sizes=taps,
        cnn_pools=pools,
        fc_neurons=fc_neurons,
        **more,
    )
    return reference.as_if_trained(net).to(dtype)


def arguments(net):
    norm = net.input_norm
    return (
        (norm.weight, norm.bias),
        net.sinc.filters(),
        [(conv.weight, conv.bias) for conv in net.convs],
        [(norm.weight, norm.bias) for norm in net.cnn_norms],
        net.cnn_pools,
        norm.eps,
        net.negative_slope,
    )


def cnn_parameters(net):
    parts = [net.input_norm, net.sinc, net.convs, net.cnn_norms]
    return [weight for part in parts for weight in part.parameters()]


def audio(net, batch, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(batch, net.window, dtype=dtype)


def gradients(function, net, x, direction):
    y = function(x, *arguments(net))
    grads = torch.autograd.grad(y, [x, *cnn_parameters(net)], direction)
    return y.detach(), grads


def check_in_float64(net, x, tolerance=1e-10):
    """Values and all gradients of the convolutional part."""
    x.requires_grad_()
    direction = torch.randn_like(reference.cnn(x, *arguments(net)))
    expected, wanted = gradients(reference.cnn, net, x, direction)
    y, got = gradients(cpu.cnn, net, x, direction)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    # A convolution's bias has no gradient through the normalisation behind
    # it: both are rounding noise there, small against all others.
    for a, b in zip(got, wanted):
        scale = max(b.abs().max().item(), 1e-3)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("module", [cpu, cuda])
def test_the_interface_is_what_both_devices_have(module):
    for name, declared in inspect.getmembers(Kernels, inspect.isfunction):
        if not name.startswith("_"):
            signature = inspect.signature(getattr(module, name))
            assert signature == inspect.signature(declared), name


def test_which_kernels():
    assert kernels_for(torch.zeros(1)) is cpu
    assert kernels_for(torch.zeros(1, device="meta")) is None


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_values_and_gradients(name, chunks, monkeypatch):
    """However many chunks of a batch go through the layers together."""
    net = make_net(name, torch.float64)
    positions = net.window - net.sinc.kernel_size + 1
    size = chunks * net.sinc.out_channels * positions
    monkeypatch.setattr(feature_maps, "_SLICE", size)
    check_in_float64(net, audio(net, 5, torch.float64))


def test_silence():
    """All maxima are equal there: the first one has the gradient."""
    net = make_net("released", torch.float64)
    with torch.no_grad():
        net.input_norm.bias.zero_()
    x = audio(net, 3, torch.float64)
    x[1], x[2] = 0, 0.5
    check_in_float64(net, x, tolerance=1e-8)


@pytest.mark.parametrize("bf16", [False, True])
def test_as_exact_as_the_plain_form(bf16):
    """Rounding moves maxima, so compare both with float64."""
    net = make_net("released")
    x = audio(net, 8).requires_grad_()
    direction = torch.randn(8, 6420)
    exact = copy.deepcopy(net).double()
    leaf = x.detach().double().requires_grad_()
    y, truth = gradients(reference.cnn, exact, leaf, direction.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        usual = reference.cnn(x, *arguments(net)).float()
        fast = cpu.cnn(x, *arguments(net))
    assert fast.dtype == torch.float32
    leaves = [x, *cnn_parameters(net)]
    usual_grads = torch.autograd.grad(usual, leaves, direction)
    fast_grads = torch.autograd.grad(fast, leaves, direction)
    for value, other, true in zip(
        [fast, *fast_grads], [usual, *usual_grads], [y, *truth]
    ):
        if true.norm() < 1e-6:
            continue  # a convolution's bias: nothing but rounding
        assert value.dtype == torch.float32
        error = (value - true).norm() / true.norm()
        assert error < 1.2 * (other - true).norm() / true.norm() + 1e-6


def test_without_gradient_and_with_strided_input():
    net = make_net("released")
    flat = torch.randn(3200 + 3 * 160)
    x = flat.as_strided((4, 3200), (160, 1))
    expected = reference.cnn(x, *arguments(net))
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            y = cpu.cnn(x, *arguments(net))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    # the gradient of a sum is an expanded tensor without memory of its own
    y.sum().backward()
    assert net.input_norm.weight.grad.isfinite().all()


def test_other_inputs():
    """Half precision is computed in float32, asymmetric filters are not."""
    net = make_net("short window")
    x = audio(net, 2).bfloat16()
    y = cpu.cnn(x, *arguments(net))
    torch.testing.assert_close(y, cpu.cnn(x.float(), *arguments(net)))
    norm, filters, *rest = arguments(net)
    filters = filters.detach().clone()
    filters[1, 3] += 0.01
    with pytest.raises(ValueError, match="symmetric"):
        cpu.cnn(audio(net, 2), norm, filters, *rest)


@pytest.mark.parametrize("by_matmul", [True, False])
@pytest.mark.parametrize(
    "shape",
    # batch, time, channels in and out, taps, stride
    [(9, 50, 16, 32, 5, 3), (2, 31, 5, 18, 3, 1), (1, 20, 16, 3, 2, 3)],
)
def test_conv(shape, by_matmul, monkeypatch):
    """On CPUs of both kinds, the weight's gradient in several matmuls."""
    monkeypatch.setattr(strided_conv, "_WEIGHT_GRADIENT_BY_MATMUL", by_matmul)
    monkeypatch.setattr(strided_conv, "_MATMUL_ROWS", 40)
    batch, time, c_in, c_out, taps, stride = shape
    torch.manual_seed(0)
    x = torch.randn(batch, time, c_in, requires_grad=True)
    weight = torch.randn(c_out, c_in, taps, requires_grad=True)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    y = cpu.conv(x, weight, stride)
    assert ("_Conv" in y.grad_fn.name()) == by_matmul
    expected = reference.conv(*exact, stride)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    direction = torch.randn_like(expected)
    got = torch.autograd.grad(y, [x, weight], direction.float())
    wanted = torch.autograd.grad(expected, exact, direction)
    for ours, theirs in zip(got, wanted):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)
    alone = cpu.conv(x.detach(), weight, stride)
    alone = torch.autograd.grad(alone, weight, direction.float())[0]
    torch.testing.assert_close(alone, got[1])


def linear_leaves(batch, n_in, n_out, dtype=torch.float32):
    torch.manual_seed(0)
    sizes = [(batch, n_in), (n_out, n_in), (n_out,)]
    leaves = [torch.randn(s, dtype=dtype, requires_grad=True) for s in sizes]
    return leaves, torch.randn(batch, n_out, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear(dtype):
    leaves, direction = linear_leaves(5, 7, 3, dtype)
    y, expected = cpu.linear(*leaves), F.linear(*leaves)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad(y, leaves, direction)
    wanted = torch.autograd.grad(expected, leaves, direction)
    torch.testing.assert_close(got, wanted)


def test_linear_under_autocast(monkeypatch):
    monkeypatch.setattr(linear_layer, "_ROWS", 8)
    leaves, direction = linear_leaves(16, 64, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, ordinary = cpu.linear(*leaves), F.linear(*leaves)
    assert y.dtype == ordinary.dtype == torch.bfloat16
    exact = F.linear(*leaves)
    wanted = torch.autograd.grad(exact, leaves, direction)
    got = torch.autograd.grad(y.float(), leaves, direction)
    for a, b in zip([y.float(), *got], [exact, *wanted]):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize(
    "kind, changes",
    [
        (SincNet, {}),
        (SincNet, {"linear_embedding": True}),
        (SincTDNN, {"band_mask": 10}),
    ],
)
def test_folded_networks(kind, changes, monkeypatch):
    net = kind(fc_neurons=[64, 32, 16], dropout=0.5, **changes)
    net = reference.as_if_trained(net).eval()
    x = audio(net, 20)
    with torch.no_grad():
        if kind is SincNet:
            kind, expected = Folded, reference.sincnet(net, x)[1]
        else:
            kind, expected = FoldedTDNN, reference.sinc_tdnn(net, x)
    monkeypatch.setattr(kind, "group", 7)
    monkeypatch.setattr(FoldedTDNN, "map_group", 3)
    folded, half = kind(net), kind(net, torch.bfloat16)
    y = folded.embed_windows(x)
    assert not y.requires_grad
    torch.testing.assert_close(for_evaluation(net)(x).squeeze(1), y)
    scale = expected.abs().max()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 * scale)
    # and it stays as it was made
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert torch.equal(folded.embed_windows(x), y)

    rounded = half.embed_windows(x)
    assert rounded.dtype == torch.float32
    assert (rounded - expected).norm() < 0.05 * expected.norm()


def test_fold_batchnorm():
    net = make_net("short window", torch.float64)
    linear, norm = net.linears[1], net.fc_norms[1].train()
    x = torch.randn(5, 8, dtype=torch.float64)
    y = F.linear(x, *fold_batchnorm(linear, norm))
    expected = reference.batch_norm(norm.eval(), linear(x))
    torch.testing.assert_close(y, expected)
