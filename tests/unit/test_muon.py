"""Muon: what it orthogonalises, the steps it takes, how it goes on."""

import inspect
import io
import math
from functools import partial

import pytest
import torch
from torch import nn

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.muon import Muon, is_muon
from amsincnet_sb.nnet.optimizers import parameter_groups
from amsincnet_sb.training.optimizer_state import (
    make_capturable,
    undo_capturable,
    without_effect,
)


def small_tdnn(**options):
    return SincTDNN(
        window=800,
        sinc_channels=4,
        sinc_kernel_size=51,
        tdnn_channels=[4, 4],
        tdnn_kernel_sizes=[5, 3],
        tdnn_strides=[3, 1],
        fc_neurons=[8, 6],
        **options,
    )


def system(network=None, classifier=None):
    """A Brain's modules."""
    torch.manual_seed(0)
    network = network or small_tdnn()
    classifier = classifier or CosineClassifier(6, 5)
    return nn.ModuleDict({"embedding_model": network, "classifier": classifier})


def optimized(modules, **options):
    hidden = modules["embedding_model"]
    return Muon(parameter_groups(modules, 0.1, hidden), **options)


def draw_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(modules, optimizer, numbers):
    for number in numbers:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (number + 1)
        draw_gradients(modules.parameters(), number)
        optimizer.step()


def values(modules):
    return [p.detach().clone() for p in modules.parameters()]


def same(one, other):
    return all(map(torch.equal, values(one), values(other)))


@pytest.mark.parametrize("shape", [(20, 90), (90, 20), (16, 24, 5), (96, 8, 3)])
def test_steps_are_orthogonal(shape):
    weight = nn.Parameter(torch.zeros(shape))
    draw_gradients([weight], 0)
    Muon([weight], lr=1.0).step()
    step = weight.detach().flatten(1) / (
        0.2 * math.sqrt(max(weight[0].numel(), shape[0]))
    )
    found = torch.linalg.svdvals(step)
    assert 0.6 < found.min() and found.max() < 1.3
    # Not any orthogonal matrix, but the nearest one to minus the gradient.
    u, _, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    assert (step * (u @ v)).sum() < -0.6 * min(step.shape)


def test_steps_of_a_convolution_by_the_formula():
    """Rate, decay and momentum of its group; in float64, written plainly."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4, 5))
    expected, average = weight.detach().double().flatten(1), torch.zeros(6, 20)
    group = {"params": [weight], "weight_decay": 0.3, "momentum": 0.8}
    optimizer = Muon([group], lr=1.0)
    for number, lr in enumerate([0.1, 0.03, 0.2]):
        draw_gradients([weight], number)
        gradient = weight.grad.double().flatten(1)
        average = 0.8 * average + gradient
        x = gradient + 0.8 * average
        x = x / x.square().sum().sqrt()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
        expected = expected * (1 - lr * 0.3) - lr * 0.2 * 20**0.5 * x
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    found = weight.detach().double().flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_rest_is_adamw():
    ours, theirs = system(), system()
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4}
    groups = [{**g, "hidden": False} for g in parameter_groups(ours)]
    muon = Muon(groups, weight_decay=0.1, **options)
    adamw = torch.optim.AdamW(
        parameter_groups(theirs), weight_decay=0.1, fused=True, **options
    )
    train(ours, muon, range(4))
    train(theirs, adamw, range(4))
    assert same(ours, theirs)


CONVS = {"convs.0.weight", "convs.1.weight"}
LINEARS = {"linears.0.weight", "linears.1.weight"}
SINCNET = partial(
    SincNet,
    window=800,
    cnn_channels=[4, 4, 4],
    cnn_kernel_sizes=[51, 5, 5],
    fc_neurons=[8, 6],
)


@pytest.mark.parametrize("linears", [True, False])
@pytest.mark.parametrize(
    "network, classifier",
    [
        (small_tdnn, CosineClassifier(6, 5)),
        (small_tdnn, CosineClassifier(6, 5, subcentres=2)),
        (partial(small_tdnn, filters="fir"), SoftmaxClassifier(6, 5)),
        (SINCNET, SoftmaxClassifier(6, 5)),  # gains of each time
    ],
)
def test_what_is_orthogonalised(network, classifier, linears):
    modules = system(network(), classifier)
    optimizer = optimized(modules, linears=linears)
    draw_gradients(modules.parameters(), 0)
    optimizer.step()
    assert {
        name.removeprefix("embedding_model.")
        for name, parameter in modules.named_parameters()
        if "momentum_buffer" in optimizer.state[parameter]
    } == CONVS | (LINEARS if linears else set())


def test_plain_parameters_go_by_their_shape():
    net = nn.Sequential(nn.Conv1d(2, 3, 5), nn.Linear(3, 4))
    for linears, expected in ((True, [True, True]), (False, [True, False])):
        optimizer = Muon(net.parameters(), linears=linears)
        draw_gradients(net.parameters(), 0)
        optimizer.step()
        state = optimizer.state
        assert ["momentum_buffer" in state[m.weight] for m in net] == expected
        assert all("exp_avg" in state[m.bias] for m in net)


def test_rates_and_decay_of_the_groups():
    """Of one step, with a gradient of zero but for the cut-offs'."""
    modules = system()
    optimizer = optimized(modules, lr=1.0, weight_decay=0.1)
    cutoffs = {id(p) for p in modules["embedding_model"].sinc.parameters()}
    before = values(modules)
    for parameter in modules.parameters():
        parameter.grad = torch.full_like(
            parameter, float(id(parameter) in cutoffs)
        )
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_factor"]
    optimizer.step()
    for old, parameter in zip(before, modules.parameters(), strict=True):
        decay = 0.001 if parameter.dim() > 1 else 0.0
        moved = 0.001 if id(parameter) in cutoffs else 0.0
        torch.testing.assert_close(
            parameter.detach(), old * (1 - decay) - moved
        )


def test_other_optimizers_have_the_groups_they_had():
    modules = system()
    for group in parameter_groups(modules):
        assert group.keys() <= {"params", "lr_factor", "weight_decay"}
    for groups in (parameter_groups(modules), optimized(modules).param_groups):
        ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in modules.parameters())


def test_goes_on_bit_for_bit():
    """Also a checkpoint of a captured step on another device."""
    through = system()
    train(through, optimized(through), range(6))
    for captured in (False, True):
        first, second, file = system(), system(), io.BytesIO()
        optimizer = optimized(first)
        train(first, optimizer, range(3))
        if captured:
            make_capturable(optimizer, False, "cpu")
            optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        torch.save([first.state_dict(), optimizer.state_dict()], file)
        file.seek(0)
        loaded = optimized(second)
        weights, state = torch.load(file, weights_only=True)
        second.load_state_dict(weights)
        loaded.load_state_dict(state)
        undo_capturable(loaded)
        assert not loaded.param_groups[0]["capturable"]
        train(second, loaded, range(3, 6))
        assert same(second, through)


def test_trying_out_has_no_effect():
    """All state is there before the first step, as a captured graph needs."""
    modules, plain = system(), system()
    optimizer = optimized(modules)
    with without_effect(optimizer):
        assert len(optimizer.state) == len(values(modules))
        train(modules, optimizer, range(2))
    assert same(modules, plain)
    train(modules, optimizer, range(3))
    train(plain, optimized(plain), range(3))
    assert same(modules, plain)


def test_compiles_whole_with_rates_as_tensors():
    modules, plain = system(), system()
    optimizer = optimized(modules)
    with without_effect(optimizer):
        pass
    rates = [torch.tensor(0.0) for _ in optimizer.param_groups]
    graphs = []
    step = torch.no_grad()(inspect.unwrap(Muon.step))

    @torch.compile(
        fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph
    )
    def compiled():
        """As a captured step calls it."""
        step(optimizer)

    by_hand = optimized(plain)
    for number in range(3):
        draw_gradients(modules.parameters(), number)
        for rate, group in zip(rates, optimizer.param_groups):
            group["lr"] = rate.fill_(0.01 / (number + 1))
        compiled()
        train(plain, by_hand, [number])
    assert len(graphs) == 1
    for one, other in zip(values(modules), values(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_without_gradients_nothing_moves():
    modules, before = system(), system()
    optimizer = optimized(modules)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert same(modules, before) and not optimizer.state


@pytest.mark.parametrize(
    "options, words",
    [
        ({"lr": -1}, "lr is -1"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"momentum": 1}, "momentum and betas are 1 "),
        ({"betas": (0.9, -0.1)}, "must be at least 0 and below 1"),
    ],
)
def test_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        Muon(nn.Linear(2, 2).parameters(), **options)


def test_knows_itself():
    assert is_muon(Muon) and is_muon(partial(Muon, lr=0.1))
    assert not is_muon(partial(torch.optim.AdamW, lr=0.1))
    assert not is_muon(lambda parameters: None)
