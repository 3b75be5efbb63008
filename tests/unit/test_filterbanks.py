"""The filters to compare with: their formulas, and networks and models of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from speechbrain.nnet import CNN

from amsincnet_sb.inference.export import WaveformScorer
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.frozen import for_evaluation
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.filterbanks import (
    CUTOFFS,
    FILTERS,
    FreeConv,
    GaborConv,
    HzSincConv,
    PlacedSincConv,
)
from amsincnet_sb.nnet.optimizers import parameter_groups
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.utils.errors import InputError

NETWORKS = {
    SincNet: {
        "cnn_channels": [6, 4],
        "cnn_kernel_sizes": [31, 3],
        "cnn_pools": [3, 3],
    },
    SincTDNN: {
        "sinc_channels": 6,
        "sinc_kernel_size": 31,
        "tdnn_channels": [6],
        "tdnn_kernel_sizes": [3],
        "tdnn_strides": [2],
    },
}
EVERY = pytest.mark.parametrize("name", sorted(FILTERS))
BOTH = pytest.mark.parametrize("kind", NETWORKS)


def network(kind, name):
    torch.manual_seed(0)
    arguments = {"window": 400, "hop": 100, "fc_neurons": [12, 8]}
    return kind(**arguments, **NETWORKS[kind], filters=name)


@EVERY
@BOTH
def test_a_network_learns_evaluates_and_is_a_model(kind, name, tmp_path):
    """Fast, plain, folded and from a folder it computes the same."""
    net, x = network(kind, name), torch.randn(3, 400)
    F.cosine_similarity(net(x)[0], net(x)[1]).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(for_evaluation(net)(x), expected)
        net.fast = False
        torch.testing.assert_close(net(x), expected)
        net.fast = True
        write_pretrained(tmp_path, net, CosineClassifier(8, 2), ["a", "b"])
        again = read_pretrained(tmp_path)[0]
        assert again.arguments == net.arguments
        assert torch.equal(again(x), expected)
    assert type(again.sinc) is type(net.sinc)
    card = (tmp_path / "README.md").read_text()
    assert ("learned\ncut-offs" in card) is (name in ("sinc", "sinc_hz"))
    assert (f"`{name}`" in card) is (name != "sinc")


def test_filters_start_at_places_learned_before():
    with CUTOFFS.open() as file:
        learned = [[float(x) for x in row.split(",")] for row in [*file][1:]]
    learned = torch.tensor(learned)
    assert len(learned) == 80
    middles = learned.sum(1)
    assert torch.equal(middles, middles.sort().values)
    found = torch.stack(PlacedSincConv(80).cutoffs_hz(), 1)
    torch.testing.assert_close(found, learned, rtol=0, atol=0.01)
    some = torch.stack(PlacedSincConv(8).cutoffs_hz(), 1)
    rows = torch.cdist(some, learned).min(1)
    assert rows.values.max() < 1
    assert rows.indices.tolist() == [*range(5, 80, 10)]
    low, high = PlacedSincConv(80, min_low_hz=300.0).cutoffs_hz()
    assert low[0] == pytest.approx(300) and high[0] == pytest.approx(352, abs=1)
    # At 8 kHz those below 4 kHz alone, of which there are fewer.
    assert PlacedSincConv(40, sample_rate=8000).cutoffs_hz()[1].max() < 4000


def test_placed_filters_at_the_least_cutoffs_move():
    """Where they were 0, the magnitude kept them there for ever."""
    layer = PlacedSincConv(80, min_low_hz=300.0, min_band_hz=100.0)
    layer(torch.randn(2, 800)).abs().amax(2).log().sum().backward()
    assert (layer.low.grad != 0).all() and (layer.band.grad != 0).all()


@pytest.mark.parametrize("channels, rate", [(80, 8000), (100, 16000)])
def test_more_filters_than_places_start_on_the_mel_scale(channels, rate):
    placed = PlacedSincConv(channels, sample_rate=rate).cutoffs_hz()
    placed = torch.stack(placed, 1)
    learned = torch.from_numpy(np.loadtxt(CUTOFFS, delimiter=",", skiprows=1))
    learned = learned[learned[:, 1] < rate / 2] if rate < 16000 else learned
    mel = torch.stack(SincConv(channels, sample_rate=rate).cutoffs_hz(), 1)

    def among(rows):
        return ((placed[:, None] - rows).abs().amax(2) < 0.01).any(1)

    assert among(learned).sum() == len(learned) < channels
    assert (among(learned) | among(mel)).all()
    middles = placed.sum(1)
    assert torch.equal(middles, middles.sort().values)


@EVERY
def test_their_learning_rate_is_set_apart(name):
    net = network(SincTDNN, name)
    apart = {
        id(parameter): group["lr_factor"]
        for group in parameter_groups(net, 7.0)
        for parameter in group["params"]
    }
    assert len(apart) == len([*net.parameters()])
    own = {id(p) for p in net.sinc.filter_parameters}
    assert {i for i, factor in apart.items() if factor == 7.0} == own
    assert bool(own) is (name != "fbank")


def test_frames_that_no_memory_holds():
    """As a stranger's model file may ask for."""
    sizes = {"cnn_channels": [4], "cnn_kernel_sizes": [65535], "cnn_pools": [1]}
    with pytest.raises(ValueError, match="filters: 65535 taps around every 1"):
        SincNet(window=2**20, filters="fbank", **sizes)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="filters is 'melf' but must be one"):
        SincNet(filters="melf")


def test_a_gabor_filter_is_half_as_large_at_its_cutoffs():
    layer = GaborConv(80, 2001)
    low, high = SincConv(80, 2001).cutoffs()
    assert torch.equal(layer.cutoffs()[0], low)
    time = torch.arange(-1000, 1001.0)
    for cutoff in (low, high):
        waves = torch.cos(2 * torch.pi * cutoff[:, None] * time)
        middle = torch.cos(torch.pi * (low + high)[:, None] * time)
        gains = [(layer.filters() * each).sum(1) for each in (waves, middle)]
        # The window widens the narrowest.
        torch.testing.assert_close(
            (gains[0] / gains[1])[5:75],
            torch.full((70,), 0.5),
            atol=0.02,
            rtol=0,
        )


def test_cutoffs_in_hz_are_speechbrains():
    theirs, ours = CNN.SincConv(20, 101, in_channels=1), HzSincConv(20, 101)
    theirs.device = "cpu"
    with torch.no_grad():
        for layer in ((theirs.low_hz_, theirs.band_hz_), (ours.low, ours.band)):
            layer[0].mul_(-1.1)
            layer[1][3] = 9000.0  # beyond half the sample rate
    filters = theirs._get_sinc_filters()[:, 0]
    found = ours.filters()
    torch.testing.assert_close(found, filters, atol=2e-3, rtol=0)
    grads = [
        torch.autograd.grad(each.pow(2)[4:, :40].sum(), parameter)[0].flatten()
        for each, parameter in ((filters, theirs.low_hz_), (found, ours.low))
    ]
    torch.testing.assert_close(*grads, rtol=0.02, atol=1e-7)


@pytest.mark.parametrize("random", [False, True])
def test_free_filters(random):
    """Taps of any sign, in the order of a convolution; as large as sinc's."""
    torch.manual_seed(1)
    layer, start = FreeConv(5, 21, random=random), SincConv(5, 21).filters()
    assert torch.equal(layer.filters(), start) is not random
    torch.testing.assert_close(layer.filters().norm(dim=1), start.norm(dim=1))
    with torch.no_grad():
        layer.weight[:] = torch.arange(21.0)
    x = torch.randn(2, 60)
    expected = x.unfold(1, 21, 1) @ torch.arange(21.0)
    torch.testing.assert_close(layer(x), expected[:, None].expand(2, 5, 40))


def test_what_becomes_an_onnx_file():
    for name, fits in (("fir", True), ("gabor", True), ("fbank", False)):
        net = network(SincTDNN, name).eval()
        model = SpeakerIdentifier(net, CosineClassifier(8, 2), ["a", "b"])
        if fits:
            WaveformScorer(model)
            continue
        with pytest.raises(InputError, match="filters fbank cannot become"):
            WaveformScorer(model)
