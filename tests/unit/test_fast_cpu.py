"""The kernels for CPUs against the plain formulas, values and gradients."""

import inspect

import pytest
import reference
import torch
import torch.nn.functional as F
from reference import conv_problem, errors, problem, under_bfloat16

from amsincnet_sb.kernels import Kernels, cpu, cuda, kernels_for
from amsincnet_sb.kernels.cpu import feature_maps, linear_layer, strided_conv
from amsincnet_sb.lobes.frozen import Folded, FoldedTDNN, for_evaluation
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.sinc import SincConv

# window, channels, taps, pools
RELEASED = (3200, (80, 60, 60), (251, 5, 5), (3, 3, 3))
SHORT = (80, (3, 2), (33, 3), (3, 3))
SHAPES = {
    "released": RELEASED,
    "pool 2, 1, 5 and four layers": (
        *(800, (8, 6, 5, 4), (31, 5, 3, 3), (2, 1, 5, 2)),
    ),
    "pool 4, rest of the window unused": (401, (7, 6), (129, 5), (4, 3)),
    "no pooling, sinc layer alone": (301, (7,), (33,), (1,)),
    "pool longer than the filters": (300, (7,), (3,), (5,)),
    "short window": SHORT,
}


def symmetric(function):
    """A convolutional part whose filters are symmetric, as sinc filters are."""

    def run(x, norm, filters, *rest):
        return function(x, norm, filters + filters.flip(1), *rest)

    return run


FAST, PLAIN = symmetric(cpu.cnn), symmetric(reference.cnn)


@pytest.mark.parametrize("module", [cpu, cuda])
def test_the_interface_is_what_both_devices_have(module):
    for name, declared in inspect.getmembers(Kernels, inspect.isfunction):
        if not name.startswith("_"):
            signature = inspect.signature(getattr(module, name))
            assert signature == inspect.signature(declared), name


def test_which_kernels():
    assert kernels_for(torch.zeros(1)) is cpu
    assert kernels_for(torch.zeros(1, device="meta")) is None


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_values_and_gradients(name, chunks, monkeypatch):
    """However many chunks of a batch go through the layers together."""
    window, channels, taps, _ = shape = SHAPES[name]
    size = chunks * channels[0] * (window - taps[0] + 1)
    monkeypatch.setattr(feature_maps, "_SLICE", size)
    assert max(errors(FAST, PLAIN, problem(shape, 5))) < 1e-10


def test_silence():
    """All maxima are equal there: the first one has the gradient."""
    arguments, _ = given = problem(RELEASED, 3)
    x, (_, bias), *_ = arguments
    with torch.no_grad():
        bias.zero_()
        x[1], x[2] = 0, 0.5
    assert max(errors(FAST, PLAIN, given)) < 1e-8


@pytest.mark.parametrize("bf16", [False, True])
def test_as_exact_as_the_plain_form(bf16):
    """Rounding moves maxima, so compare both with float64."""
    given, exact = problem(RELEASED, 8, torch.float32), problem(RELEASED, 8)
    for arguments, _ in (given, exact):
        arguments[2].data.copy_(SincConv().filters() / 2)
    assert under_bfloat16(FAST, bf16)(*given[0]).dtype == torch.float32
    fast, plain = (
        errors(under_bfloat16(each, bf16), PLAIN, given, exact)
        for each in (FAST, PLAIN)
    )
    for ours, theirs in zip(fast, plain):
        assert ours < 1.2 * theirs + 1e-6


def test_without_gradient_and_with_strided_input():
    (_, norm, *rest), _ = problem(RELEASED, 1, torch.float32)
    x = torch.randn(3200 + 3 * 160).as_strided((4, 3200), (160, 1))
    expected = PLAIN(x, norm, *rest)
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            y = FAST(x, norm, *rest)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    # the gradient of a sum is an expanded tensor without memory of its own
    y.sum().backward()
    assert norm[0].grad.isfinite().all()


def test_nothing_is_kept_without_gradients(monkeypatch):
    """Parameters that have some elsewhere, as in a loop over a test set."""
    kept, forward = [], feature_maps.Network.forward

    def watched(self, x, keep=None):
        kept.append(keep is not None)
        return forward(self, x, keep)

    monkeypatch.setattr(feature_maps.Network, "forward", watched)
    net = SincNet(fc_neurons=[4]).eval()
    windows = torch.randn(2, 3200)
    with torch.no_grad():
        net(windows)
    with torch.inference_mode():
        net(windows)
    assert not any(kept)
    net(windows).sum().backward()
    assert kept[-1] and net.sinc.low.grad is not None


@pytest.mark.parametrize("kind", [SincNet, SincTDNN])
def test_no_windows(kind):
    net = kind(fc_neurons=[4]).eval()
    none = torch.zeros(0, 3200)
    for embed in (net.embed_windows, for_evaluation(net)):
        assert embed(none).flatten(1).shape == (0, 4)


def test_other_inputs():
    """Half precision is computed in float32, asymmetric filters are not."""
    (x, *rest), _ = problem(SHORT, 2, torch.float32)
    y = FAST(x.bfloat16(), *rest)
    torch.testing.assert_close(y, FAST(x.bfloat16().float(), *rest))
    with pytest.raises(ValueError, match="symmetric"):
        cpu.cnn(x, *rest)


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
    (x, weight, stride), _ = given = conv_problem(shape, torch.float32)
    assert ("_Conv" in cpu.conv(*given[0]).grad_fn.name()) == by_matmul
    exact = conv_problem(shape)
    assert max(errors(cpu.conv, reference.conv, given, exact)) < 1e-5
    # Where the input needs no gradient.
    given = (x.detach(), weight, stride), [weight]
    exact = exact[0], [exact[0][1]]
    assert max(errors(cpu.conv, reference.conv, given, exact)) < 1e-5


def linear_problem(batch, n_in, n_out, dtype=torch.float64):
    torch.manual_seed(0)
    leaves = [
        torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_()
        for size in [(batch, n_in), (n_out, n_in), (n_out,)]
    ]
    return leaves, leaves


@pytest.mark.parametrize("rows", [20, 8])  # several parts; one
@pytest.mark.parametrize(
    "dtype, bf16, bound",
    [(torch.float32, False, 1e-6), (torch.float64, False, 1e-14)]
    + [(torch.float32, True, 0.01)],
)
def test_linear(monkeypatch, dtype, bf16, bound, rows):
    monkeypatch.setattr(linear_layer, "_ROWS", 8)
    leaves, _ = given = linear_problem(16, 64, rows, dtype)
    linear = under_bfloat16(cpu.linear, bf16)
    assert linear(*leaves).dtype == (torch.bfloat16 if bf16 else dtype)
    found = errors(linear, F.linear, given, linear_problem(16, 64, rows))
    assert max(found) < bound


@pytest.mark.parametrize(
    "kind, changes",
    [
        (SincNet, {}),
        (SincNet, {"linear_embedding": True}),
        (SincTDNN, {"band_mask": 10}),
        (SincTDNN, {"sinc_norm": "batch"}),
    ],
)
def test_folded_networks(kind, changes, monkeypatch):
    net = kind(fc_neurons=[64, 32, 16], dropout=0.5, **changes)
    net = reference.as_if_trained(net).eval()
    x = torch.randn(20, net.window)
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
