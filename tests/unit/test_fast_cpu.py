"""The CPU path against the formulas written plainly, values and gradients."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from amsincnet_sb.kernels import cpu as fast_cpu
from amsincnet_sb.kernels.cpu import feature_maps, linear_layer, strided_conv
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.frozen import Folded, fold_batchnorm
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.losses import AMSoftmax
from amsincnet_sb.nnet.optimizers import RMSprop

ARCHITECTURES = {
    "released": dict(),
    "pool 2, 1, 5 and four layers": dict(
        window=800,
        cnn_channels=(8, 6, 5, 4),
        cnn_kernel_sizes=(31, 5, 3, 3),
        cnn_pools=(2, 1, 5, 2),
    ),
    "pool 4, rest of the window unused": dict(
        window=401,
        cnn_channels=(7, 6),
        cnn_kernel_sizes=(129, 5),
        cnn_pools=(4, 3),
    ),
    "no pooling, sinc layer alone": dict(
        window=301,
        cnn_channels=(7,),
        cnn_kernel_sizes=(33,),
        cnn_pools=(1,),
    ),
    "pool longer than the filters": dict(
        window=300,
        cnn_channels=(7,),
        cnn_kernel_sizes=(3,),
        cnn_pools=(5,),
    ),
    "short window": dict(
        window=80,
        cnn_channels=(3, 2),
        cnn_kernel_sizes=(33, 3),
        cnn_pools=(3, 3),
    ),
}


def make_net(name, dtype=torch.float32, **more):
    """A network whose gains and biases are not the initial ones and zeros."""
    torch.manual_seed(0)
    settings = {"fc_neurons": [8, 4], **ARCHITECTURES[name], **more}
    net = SincNet(**settings).to(dtype)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * weight.abs().mean() * torch.randn_like(weight)
        for norm in [net.input_norm, *net.cnn_norms]:
            norm.bias += 0.1 * torch.randn_like(norm.bias)
    return net


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


def standardise(x, eps):
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)) + 1e-20
    return centred / (std.sqrt() + eps)


def plain(x, input_norm, filters, convs, norms, pools, eps, slope):
    x = input_norm[0] * standardise(x, eps) + input_norm[1]
    x = F.conv1d(x[:, None], filters[:, None]).abs()
    for layer, (pool, norm) in enumerate(zip(pools, norms)):
        if layer:
            x = F.conv1d(x, *convs[layer - 1])
        x = norm[0] * standardise(F.max_pool1d(x, pool), eps) + norm[1]
        x = F.leaky_relu(x, slope)
    return x.flatten(1)


def audio(net, batch, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(batch, net.window, dtype=dtype)


def gradients(function, net, x, direction):
    y = function(x, *arguments(net))
    grads = torch.autograd.grad(y, [x, *cnn_parameters(net)], direction)
    return y.detach(), grads


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("windows", [1, 2, 5])
def test_values_and_gradients(name, windows, monkeypatch):
    net = make_net(name, torch.float64)
    positions = net.window - net.sinc.kernel_size + 1
    size = windows * net.sinc.out_channels * positions
    monkeypatch.setattr(feature_maps, "_SLICE", size)
    x = audio(net, 5, torch.float64).requires_grad_()
    direction = torch.randn_like(plain(x, *arguments(net)))
    expected, wanted = gradients(plain, net, x, direction)
    y, got = gradients(fast_cpu.cnn, net, x, direction)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    # A convolution's bias has no gradient through the normalisation behind
    # it: both are rounding noise there, small against all others.
    for a, b in zip(got, wanted):
        scale = max(b.abs().max().item(), 1e-3)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("bf16", [False, True])
def test_as_exact_as_the_plain_path(bf16):
    """Rounding moves maxima, so compare both with float64."""
    net = make_net("released")
    x = audio(net, 8).requires_grad_()
    direction = torch.randn(8, 6420)
    exact = copy.deepcopy(net).double()
    leaf = x.detach().double().requires_grad_()
    y, truth = gradients(plain, exact, leaf, direction.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        usual = plain(x, *arguments(net)).float()
        fast = fast_cpu.cnn(x, *arguments(net))
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
    expected = plain(x, *arguments(net))
    with torch.no_grad():
        y = fast_cpu.cnn(x, *arguments(net))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y = fast_cpu.cnn(x, *arguments(net))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    # the gradient of a sum is an expanded tensor without memory of its own
    y.sum().backward()
    assert net.input_norm.weight.grad.isfinite().all()


def test_silence():
    """All maxima are equal there: the first one has the gradient."""
    net = make_net("released", torch.float64)
    with torch.no_grad():
        net.input_norm.bias.zero_()
    x = audio(net, 3, torch.float64)
    x[1] = 0
    x[2] = 0.5
    x.requires_grad_()
    direction = torch.randn(3, 6420, dtype=torch.float64)
    expected, wanted = gradients(plain, net, x, direction)
    y, got = gradients(fast_cpu.cnn, net, x, direction)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(got, wanted):
        assert a.isfinite().all()
        scale = max(b.abs().max().item(), 1e-3)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("pools", [(3, 2), (2, 3), (1, 1), (4, 1)])
def test_gradcheck(pools):
    torch.manual_seed(2)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    time, taps, channels = 40, 9, 2
    first = (time - taps + 1) // pools[0]
    second = (first - 2) // pools[1]
    leaves = [
        leaf(2, time),
        leaf(time),
        leaf(time),
        leaf(channels, taps // 2 + 1),
        leaf(3, channels, 3),
        leaf(3),
        leaf(channels, first),
        leaf(channels, first),
        leaf(3, second),
        leaf(3, second),
    ]

    def run(x, gain, bias, half, weight, offset, *norms):
        filters = torch.cat([half, half[:, :-1].flip(1)], 1)
        norms = norms[:2], norms[2:]
        convs = [(weight, offset)]
        return fast_cpu.cnn(
            x, (gain, bias), filters, convs, norms, pools, 1e-6, 0.2
        )

    assert torch.autograd.gradcheck(run, leaves, atol=1e-5)


def test_half_precision_input_is_computed_in_float32():
    net = make_net("short window")
    x = audio(net, 2).bfloat16()
    y = fast_cpu.cnn(x, *arguments(net))
    torch.testing.assert_close(y, fast_cpu.cnn(x.float(), *arguments(net)))


def test_filters_must_be_symmetric():
    net = make_net("short window")
    norm, filters, *rest = arguments(net)
    filters = filters.detach().clone()
    filters[1, 3] += 0.01
    with pytest.raises(ValueError, match="symmetric"):
        fast_cpu.cnn(audio(net, 2), norm, filters, *rest)


def test_frozen_keeps_its_parameters():
    net = make_net("released")
    x = audio(net, 11)
    args = arguments(net)
    frozen = fast_cpu.frozen_cnn(*args, torch.float32)
    expected = plain(x, *args).detach()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    y = frozen(x).transpose(1, 2).flatten(1)
    assert not y.requires_grad
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("by_product", [True, False])
@pytest.mark.parametrize(
    "shape",
    # batch, time, channels in and out, taps, stride
    [(9, 50, 16, 32, 5, 3), (2, 31, 5, 18, 3, 1), (1, 20, 16, 3, 2, 3)],
)
def test_conv(shape, by_product, monkeypatch):
    """On processors of both kinds, the first weight in several products."""
    monkeypatch.setattr(strided_conv, "_WEIGHT_GRADIENT_BY_MATMUL", by_product)
    monkeypatch.setattr(strided_conv, "_MATMUL_ROWS", 40)
    batch, time, c_in, c_out, taps, stride = shape
    torch.manual_seed(0)
    x = torch.randn(batch, time, c_in, requires_grad=True)
    weight = torch.randn(c_out, c_in, taps, requires_grad=True)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    y = fast_cpu.conv(x, weight, stride)
    assert ("_Conv" in y.grad_fn.name()) == by_product
    expected = F.conv1d(exact[0].transpose(1, 2), exact[1], stride=stride)
    expected = expected.transpose(1, 2)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(y, [x, weight], direction.float())
    wanted = torch.autograd.grad(expected, exact, direction)
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)
    alone = fast_cpu.conv(x.detach(), weight, stride)
    alone = torch.autograd.grad(alone, weight, direction.float())[0]
    torch.testing.assert_close(alone, gradients[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear(dtype):
    torch.manual_seed(0)
    leaves = [torch.randn(s, dtype=dtype) for s in [(5, 7), (3, 7), (3,)]]
    leaves = [each.requires_grad_() for each in leaves]
    direction = torch.randn(5, 3, dtype=dtype)
    y, expected = fast_cpu.linear(*leaves), F.linear(*leaves)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad(y, leaves, direction)
    wanted = torch.autograd.grad(expected, leaves, direction)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b)


def test_linear_under_autocast(monkeypatch):
    monkeypatch.setattr(linear_layer, "_ROWS", 8)
    torch.manual_seed(0)
    leaves = [torch.randn(s) for s in [(16, 64), (20, 64), (20,)]]
    leaves = [each.requires_grad_() for each in leaves]
    direction = torch.randn(16, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, ordinary = fast_cpu.linear(*leaves), F.linear(*leaves)
    assert y.dtype == ordinary.dtype == torch.bfloat16
    exact = F.linear(*leaves)
    wanted = torch.autograd.grad(exact, leaves, direction)
    got = torch.autograd.grad(y.float(), leaves, direction)
    for a, b in zip([y.float(), *got], [exact, *wanted]):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


class PlainNet(SincNet):
    def cnn(self, windows):
        return plain(windows, *arguments(self))


def as_plain(net):
    net = copy.deepcopy(net)
    net.__class__ = PlainNet
    net.fast = False
    return net


def test_rmsprop_step_equals_the_plain_one():
    """Also after the first step, which is the sign of the gradient."""
    after = []
    fast = make_net("released", torch.float64)
    for net, kind in (
        (as_plain(fast), torch.optim.RMSprop),
        (fast, RMSprop),
    ):
        torch.manual_seed(0)
        classify = CosineClassifier(4, 5).double()
        weights = [*net.parameters(), *classify.parameters()]
        optimizer = kind(weights, lr=1e-3, alpha=0.95, eps=1e-8)
        x = audio(net, 9, torch.float64)
        targets = torch.arange(9) % 5
        loss = AMSoftmax(0.3)
        for _ in range(2):
            value = loss(classify(net(x)), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        after.append((value.item(), net.state_dict()))
    (loss_a, a), (loss_b, b) = after
    assert math.isclose(loss_a, loss_b, rel_tol=1e-6)
    for name, weight in a.items():
        if name.startswith("convs") and name.endswith("bias"):
            continue  # no gradient but rounding noise, whose sign decides
        if weight.dtype == torch.float64:
            torch.testing.assert_close(b[name], weight, rtol=0, atol=1e-5)


def trained_statistics(net):
    for norm in net.fc_norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()


@pytest.mark.parametrize("linear_embedding", [True, False])
def test_folded_network(linear_embedding):
    net = make_net(
        "released",
        fc_neurons=[64, 32, 16],
        linear_embedding=linear_embedding,
        dropout=0.5,
    )
    trained_statistics(net)
    net.eval()
    reference = as_plain(net)
    x = audio(net, 20)
    folded = Folded(net)
    folded.group = 7
    y = folded.embed_windows(x)
    with torch.no_grad():
        expected = reference.embed_windows(x)
    scale = expected.abs().max()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 * scale)
    # and it stays as it was made
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert torch.equal(folded.embed_windows(x), y)

    half = Folded(reference, torch.bfloat16).embed_windows(x)
    assert half.dtype == torch.float32
    assert (half - expected).norm() < 0.05 * expected.norm()


def test_fold_batchnorm():
    net = make_net("short window", torch.float64)
    trained_statistics(net)
    net.train()
    linear, norm = net.linears[1], net.fc_norms[1]
    x = torch.randn(5, 8, dtype=torch.float64)
    y = F.linear(x, *fold_batchnorm(linear, norm))
    z = (linear(x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(y, z * norm.weight + norm.bias)
