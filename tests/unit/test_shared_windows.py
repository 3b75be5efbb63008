"""Windows of one recording that share work, against the plain network."""

import pickle

import pytest
import reference
import torch

from amsincnet_sb.inference import window_averages
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.inference.window_averages import half_a_window
from amsincnet_sb.kernels.cpu import shared_sinc
from amsincnet_sb.kernels.cpu.shared_sinc import SharedSinc
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.frozen import FoldedTDNN, for_evaluation
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet

WINDOW = 301
SMALL = {
    "window": WINDOW,
    "sinc_channels": 12,
    "sinc_kernel_size": 33,
    "tdnn_channels": [16, 16],
    "tdnn_kernel_sizes": [5, 3],
    "tdnn_strides": [2, 1],
    "fc_neurons": [24, 16],
}


def network(**changes):
    torch.manual_seed(0)
    net = SincTDNN(**{**SMALL, **changes})
    return reference.as_if_trained(net).eval()


def recording(samples, seed=0):
    """Noise with an offset, part of it hardly to be heard."""
    generator = torch.Generator().manual_seed(seed)
    wave = 0.1 * torch.randn(samples, generator=generator)
    wave[samples // 4 : samples // 2] *= 1e-3
    return wave + 0.05


def passes(monkeypatch):
    """A list that will have the samples of each pass over a recording."""
    seen, extremes = [], SharedSinc._extremes
    monkeypatch.setattr(
        SharedSinc,
        "_extremes",
        lambda self, wave: seen.append(len(wave)) or extremes(self, wave),
    )
    return seen


@pytest.mark.parametrize(
    "dtype, bound", [(torch.float32, 1e-3), (torch.float64, 1e-6)]
)
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize(
    "pool, hop, shared",
    [
        (3, 150, 1),  # whole pools
        (3, 40, 3),  # every third window is at a whole pool
        (3, 101, 0),  # those no longer overlap
        (1, 77, 1),
        (2, 5, 2),
        (5, 25, 1),
        (4, 6, 2),
        (3, WINDOW, 0),
    ],
)
def test_embeddings(pool, hop, shared, floor, norm, dtype, bound, monkeypatch):
    net = network(sinc_pool=pool, log_floor=floor, sinc_norm=norm).to(dtype)
    wave = recording(2000).to(dtype)
    if (
        dtype == torch.float64 and floor
    ):  # else the plain form's is rounding alone
        wave[1000 : 1100 + WINDOW] = 0.05
    windows = wave.unfold(0, WINDOW, hop)
    monkeypatch.setattr(shared_sinc, "_POOLS", 50)
    monkeypatch.setattr(shared_sinc, "_WINDOWS", 3)
    monkeypatch.setattr(FoldedTDNN, "map_group", 16)
    seen, folded = passes(monkeypatch), FoldedTDNN(net, dtype)
    found = folded.embed_windows(windows)
    groups = -(-len(windows) // 16)
    assert len(seen) == shared * groups
    with torch.no_grad():
        expected = reference.sinc_tdnn(net, windows)
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    # Of copies, which share nothing.
    copied = folded.embed_windows(windows.clone())
    torch.testing.assert_close(found, copied, rtol=bound, atol=bound)


@pytest.mark.parametrize("kind", [SincNet, SincTDNN])
@pytest.mark.parametrize("fast", [False, True])
def test_several_recordings_at_once(kind, fast):
    torch.manual_seed(0)
    net = kind(fc_neurons=[24, 16], fast=fast).eval()
    parts = [
        recording(samples, seed).unfold(0, net.window, 1599)
        for seed, samples in enumerate((9000, 3200, 20000))
    ]
    embed = for_evaluation(net)
    with torch.no_grad():
        expected = torch.cat([embed(part.clone()) for part in parts])
        torch.testing.assert_close(
            embed(*parts), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", [SincNet, SincTDNN])
@pytest.mark.parametrize("hop", [1599, 3200])
def test_bfloat16_keeps_faint_bands(kind, hop):
    """A loud hum of 100 Hz, rounded, would be louder than the voice."""
    torch.manual_seed(0)
    net = (
        kind(fc_neurons=[256, 64], linear_embedding=True)
        if (kind is SincNet)
        else kind(fc_neurons=[256, 64])
    )
    net.eval()
    time = torch.arange(16000) / 16000
    faint = 3e-4 * torch.sin(2 * torch.pi * 3000 * time * (1 + time))
    wave = 0.5 * torch.sin(2 * torch.pi * 100 * time) + faint
    windows = wave.unfold(0, net.window, hop)
    exact, rounded = (
        for_evaluation(net, dtype)(windows)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_answers_share_and_are_those_of_single_windows(monkeypatch):
    net = network()
    torch.manual_seed(1)
    classify = CosineClassifier(16, 5).requires_grad_(False)
    who = SpeakerIdentifier(net, classify, "abcde", 10.0)
    assert who.hop == half_a_window(net) == 150
    seen = passes(monkeypatch)
    waves = [recording(1500, 1), recording(900, 2), recording(100, 3)]
    found = who.embed(waves)
    assert seen == [WINDOW + 7 * 150, WINDOW + 3 * 150]
    with torch.no_grad():
        for wave, embedding in zip(waves, found):
            starts = range(0, max(1, len(wave) - WINDOW + 1), 150)
            windows = [wave.repeat(4)[at : at + WINDOW][None] for at in starts]
            expected = torch.cat([net(one) for one in windows]).mean((0, 1))
            torch.testing.assert_close(
                embedding, expected, rtol=1e-3, atol=1e-3
            )


def test_what_was_made_with_other_windows_stays_right(models, voice, tmp_path):
    """Enrolled speakers and thresholds of a folder of version 0.2.0."""
    write_pretrained(tmp_path, *models, ["ann", "bob"], 10.0)
    before = SpeakerIdentifier.from_results(tmp_path, hop=50)
    before.enroll("cat", [voice(2500, seed=seed) for seed in (1, 2)])
    same, other = (
        before.verify(voice(2500), voice(pitch, 0.3, 3), 0).score
        for pitch in (2500, 300)
    )
    middle = {"threshold": (same + other) / 2}
    before.calibration = {"verification": middle}
    before.save()
    now = SpeakerIdentifier.from_results(tmp_path)
    assert now.hop == 100
    for name, pitch in (("ann", 300), ("bob", 700), ("cat", 2500)):
        assert now.identify(voice(pitch, seed=9), 1)[0].speaker == name
    assert now.verify(voice(2500), voice(2500, 0.3, 3)).accepted
    assert not now.verify(voice(2500), voice(300, 0.3, 3)).accepted


@pytest.mark.parametrize("kind", [SincNet, SincTDNN])
def test_bfloat16_only_where_the_cpu_has_it(kind, monkeypatch):
    torch.manual_seed(0)
    net = reference.as_if_trained(kind(fc_neurons=[64, 32])).eval()
    found = {}
    for has in (False, True):
        monkeypatch.setattr(window_averages, "has_bfloat16", lambda _, x=has: x)
        who = SpeakerIdentifier(net, CosineClassifier(32, 3), "abc", 5.0)
        found[has] = who.embed(recording(20000))
    different = (found[True] - found[False]).norm() / found[False].norm()
    assert 1e-5 < different < 0.02
    who.use_float32()
    again = pickle.loads(pickle.dumps(who))
    assert torch.equal(again.embed(recording(20000)), found[False])
