"""The network: its parts in the right order, and waveforms of any length."""

import copy

import pytest
import reference
import torch

from amsincnet_sb import kernels
from amsincnet_sb.kernels import cuda
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP = 200, 30
SMALL = {
    "window": WINDOW,
    "hop": HOP,
    "cnn_channels": (4, 3, 3),
    "cnn_kernel_sizes": (21, 5, 3),
    "cnn_pools": (3, 3, 2),
    "fc_neurons": [12, 12, 8],
}
LISTS = ("cnn_channels", "cnn_kernel_sizes", "cnn_pools")


def network(seed=0, **changes):
    """A small network in evaluation mode, as if it had been trained."""
    net = SincNet(**{**SMALL, **changes}).eval()
    return reference.as_if_trained(net, seed)


@pytest.fixture(scope="module")
def net():
    return network()


def waves(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def naive(net, wave):
    """Mean embedding of the whole windows of one waveform ``[time]``."""
    if len(wave) < net.window:
        wave = wave.repeat(-(-net.window // len(wave)))[: net.window]
    starts = range(0, len(wave) - net.window + 1, net.hop)
    windows = [wave[at : at + net.window] for at in starts]
    return torch.cat([net(window[None])[0] for window in windows]).mean(0)


# The network ---------------------------------------------------------------


def test_the_released_architecture():
    net = SincNet()
    classify = SoftmaxClassifier(net.embedding_size, 462)
    parameters = [*net.parameters(), *classify.parameters()]
    assert sum(p.numel() for p in parameters) == 22_772_598
    assert (net.window, net.hop, net.embedding_size) == (3200, 160, 2048)
    assert net.fc_norms[0].momentum == 0.05
    assert net(waves(2, 3200)).shape == (2, 1, 2048)


def test_dropout_is_behind_all_but_the_last_layer():
    net = network(dropout=0.5, linear_embedding=True)
    x = waves(1, WINDOW)
    seen = []
    net.dropout.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    assert torch.equal(net(x), net(x))
    net.train()
    for norm in net.fc_norms:
        norm.eval()
    assert not torch.equal(net(x), net(x))
    assert seen == [(1, 12)] * 8
    assert (net(x) != 0).all()


@pytest.mark.parametrize("released_init", [False, True])
def test_initialisation(released_init):
    torch.manual_seed(0)
    net = SincNet(**SMALL, released_init=released_init)
    last = [SoftmaxClassifier(300, 100).linear] * released_init
    for linear in [*net.linears, *last]:
        size = linear.in_features + linear.out_features
        within = linear.weight.abs().max() <= (0.01 / size) ** 0.5
        assert within == released_init
        assert bool(linear.bias.any()) != released_init


# Waveforms of any length -----------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [1, 7, WINDOW - 1, WINDOW, WINDOW + HOP - 1, WINDOW + HOP, 3 * WINDOW],
)
def test_any_length(net, time):
    x = waves(3, time, seed=time)
    expected = torch.stack([naive(net, wave) for wave in x])
    for wavs in (x, x.unsqueeze(-1)):
        for y in (net(wavs), net(wavs, torch.ones(3))):
            assert y.shape == (3, 1, net.embedding_size)
            torch.testing.assert_close(y[:, 0], expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing(net):
    lengths = [1, 60, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + HOP, 517, 900]
    recordings = [waves(n, seed=n) for n in lengths]
    alone = torch.stack([net(wave[None])[0, 0] for wave in recordings])
    for filler in (0.0, 1e6, float("nan")):
        padded = torch.full((len(lengths), 900), filler)
        for row, wave in zip(padded, recordings):
            row[: len(wave)] = wave
        y = net(padded, torch.tensor(lengths) / 900).squeeze(1)
        torch.testing.assert_close(y, alone, atol=1e-5, rtol=0)


def test_lengths_survive_being_fractions(net):
    # Every number of samples comes back from a float32 fraction.
    net, time = copy.copy(net), 48_000
    counts = []
    net.embed_windows = lambda w: counts.append(len(w)) or w[:, :8]
    samples = range(WINDOW + 5 * HOP, time, 10 * HOP)
    for n in samples:
        for shorter in (0, 1):  # whether the last window just fits
            net(torch.zeros(1, time), torch.tensor([(n - shorter) / time]))
    expected = [(n - WINDOW) // HOP + 1 - s for n in samples for s in (0, 1)]
    assert counts == expected


def test_lengths_weigh_gradients(net):
    x = waves(2, 500).requires_grad_()
    y = net(x, torch.tensor([1.0, 0.6]))
    y.square().sum().backward()
    assert x.grad[0, : WINDOW + 10 * HOP].any()
    assert x.grad[1, :300].any() and not x.grad[1, 300:].any()


def test_long_recordings_in_bfloat16():
    # One rounding of the result, and not one of every partial sum.
    net = network(hop=2)
    x = waves(2, WINDOW + 2 * 2000)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, torch.ones(2)).float().squeeze(1)
        windows = net.embed_windows(x.unfold(1, WINDOW, 2).flatten(0, 1))
    mean = windows.float().view(2, 2001, 8).mean(1)
    assert (y - mean).norm() / mean.norm() < 2**-9


# What is done with a network -------------------------------------------------


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"cnn_pools": (3, 3)}, "equal length"),
        ({"window": 60}, "too short"),
        ({"cnn_kernel_sizes": (20, 5, 3)}, "odd"),
        ({"cnn_channels": (1, 3, 3)}, "at least 2"),
        ({"cnn_pools": (0, 3, 2)}, "cnn_pools"),
        ({"cnn_channels": (4, -1, 3)}, "cnn_channels"),
        ({"fc_neurons": []}, "fc_neurons"),
        ({"fc_neurons": [8.0]}, "fc_neurons"),
        ({"hop": 0}, "hop"),
        ({"window": 200.5}, "window"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"dropout": 1.5}, "dropout"),
        (dict.fromkeys(LISTS, []), "cnn_channels"),
    ],
)
def test_wrong_arguments(changes, word):
    with pytest.raises(ValueError, match=word):
        SincNet(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "shape", [(WINDOW,), (2, 300, 2), (1, 2, 300, 1), (2, 0), (0, 0), (2, 0, 1)]
)
def test_wrong_shapes(net, shape):
    for lens in (None, torch.ones(shape[0])):
        with pytest.raises(InputError, match="SincNet: waveforms have"):
            net(torch.zeros(shape), lens)


@pytest.mark.parametrize(
    "lens, told",
    [
        ([1.0], r"the shape \[1\], but must have \[batch\], which is \[3\]"),
        ([[1.0], [0.5], [0.5]], r"the shape \[3, 1\]"),
        ([1.0, 1.0, 1.0, 1.0], r"the shape \[4\]"),
        ([900, 700, 500], "up to 900, .* divide samples by 900"),
    ],
)
def test_wrong_lens(net, lens, told):
    """One length for three gave zeros, and samples all of the padding."""
    with pytest.raises(InputError, match=told):
        net(waves(3, 900), torch.tensor(lens))


def test_of_no_waveforms_there_are_no_embeddings(net):
    assert net(torch.zeros(0, 300)).shape == (0, 1, net.embedding_size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_of_half_precision_on_a_cpu(dtype):
    net = SincNet(**SMALL).eval().to(dtype)
    with pytest.raises(InputError, match=f"are {dtype}.*torch.autocast"):
        net(waves(2, WINDOW).to(dtype))


def test_compiled_on_a_gpu_it_takes_the_gpus_kernels(monkeypatch):
    """torch.compile must not be mistaken for an export."""
    net, taken = SincNet(**SMALL).eval(), []

    def cnn(windows, *rest):
        taken.append(windows.shape)
        return windows[:, : net.flat_norm.weight.numel()] * 1.0

    monkeypatch.setattr(kernels, "_cuda", cuda)
    monkeypatch.setattr(cuda, "supports", lambda x: True)
    monkeypatch.setattr(cuda, "cnn", cnn)
    compiled = torch.compile(net.embed_windows, backend="eager")
    with torch.no_grad():
        compiled(torch.randn(2, net.window))
    assert taken


def test_lengths_in_half_precision():
    """They end at 65504 samples, and what they say of more is lost."""
    net = SincNet(fc_neurons=[4], hop=3200).eval()
    wavs = torch.randn(1, 70000)
    for kind in (torch.float16, torch.bfloat16):
        found = net(wavs, torch.ones(1, dtype=kind))
        torch.testing.assert_close(found, net(wavs, torch.ones(1)))
