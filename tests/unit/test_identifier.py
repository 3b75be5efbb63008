"""Naming speakers of recordings of any length."""

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.inference.identifier import Candidate, SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP, SCALE = 200, 50, 10.0
SPEAKERS = ["ann", "bob", "cat", "dan"]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    net = SincNet(
        window=WINDOW,
        hop=HOP,
        cnn_channels=(4, 3),
        cnn_kernel_sizes=(21, 5),
        cnn_pools=(3, 3),
        fc_neurons=[12, 8],
        linear_embedding=True,
    )
    net.train()
    with torch.no_grad():
        for _ in range(60):
            net(torch.randn(32, WINDOW))
    return net.eval(), CosineClassifier(8, 4)


@pytest.fixture(scope="module")
def who(models):
    return SpeakerIdentifier(*models, SPEAKERS, scale=SCALE)


def recording(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


def naive(models, wave):
    """Mean log-posteriors and mean posteriors, window by window."""
    net, classify = models
    if len(wave) < WINDOW:
        repeats = -(-WINDOW // len(wave))
        wave = wave.repeat(repeats)[:WINDOW]
    scores = []
    for start in range(0, len(wave) - WINDOW + 1, HOP):
        window = wave[start : start + WINDOW]
        cosines = classify(net(window[None])).flatten().detach().numpy()
        logits = SCALE * cosines.astype(float)
        scores.append(logits - np.log(np.exp(logits).sum()))
    return np.mean(scores, 0), np.mean(np.exp(scores), 0)


@pytest.mark.parametrize("samples", [1, 13, 199, 200, 249, 250, 3000])
def test_scores_and_shares(models, who, samples):
    wave = recording(samples)
    scores, shares = naive(models, wave)
    order = np.argsort(-scores)
    found = who.identify(wave, top_k=4)
    assert [c.speaker for c in found] == [SPEAKERS[i] for i in order]
    for candidate, i in zip(found, order):
        assert isinstance(candidate, Candidate)
        assert type(candidate.score) is type(candidate.share) is float
        assert candidate.score == pytest.approx(scores[i], abs=1e-4)
        assert candidate.share == pytest.approx(shares[i], abs=1e-5)
    assert sum(c.share for c in found) == pytest.approx(1.0)
    assert sum(np.exp(c.score) for c in found) <= 1 + 1e-5


def test_voices_disagree_in_these_tests(models, who):
    votes = who.analyse(recording(3000)).votes
    assert (votes > 0).sum() > 1 and votes.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 99])
def test_top_k(who, top_k):
    every = who.identify(recording(1000), top_k=4)
    found = who.identify(recording(1000), top_k=top_k)
    assert found == every[:top_k]
    assert len(who.identify(recording(1000))) == 3


@pytest.mark.parametrize("windows_per_batch", [1, 2, 7, 57, 58])
def test_batches_change_nothing(models, who, monkeypatch, windows_per_batch):
    sizes = []
    pieces = SpeakerIdentifier(*models, SPEAKERS, SCALE, windows_per_batch)
    embed = pieces._embed
    monkeypatch.setattr(
        pieces, "_embed", lambda x: sizes.append(len(x)) or embed(x)
    )
    found = pieces.identify(recording(3049), top_k=4)
    assert sum(sizes) == 57 and max(sizes) <= windows_per_batch
    whole = who.identify(recording(3049), top_k=4)
    for a, b in zip(found, whole):
        assert a.speaker == b.speaker
        assert a.share == pytest.approx(b.share, abs=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-5)


def test_log_probabilities_stay_as_they_are(models):
    torch.manual_seed(1)
    net, classify = models[0], SoftmaxClassifier(8, 4)
    torch.nn.init.normal_(classify.linear.weight)
    wave = recording(WINDOW)
    expected = classify(net(wave[None])).flatten().tolist()
    found = SpeakerIdentifier(net, classify, SPEAKERS).identify(wave, 4)
    scores = {c.speaker: c.score for c in found}
    for speaker, value in zip(SPEAKERS, expected):
        assert scores[speaker] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    "wave",
    [
        torch.zeros(0),
        torch.tensor([0.1, float("nan")]),
        torch.full((500,), float("inf")),
    ],
)
def test_useless_recordings(who, wave):
    with pytest.raises(InputError, match="empty or holds values"):
        who.identify(wave)


def test_silence_is_no_error(who):
    found = who.identify(torch.zeros(1000))
    assert all(np.isfinite(c.score) for c in found)


@pytest.mark.parametrize("as_text", [False, True])
def test_files(who, tmp_path, as_text):
    steps = (recording(3000) * 32768).round()
    path = tmp_path / "a.wav"
    soundfile.write(path, steps.short().numpy(), 16000)
    found = who.identify(str(path) if as_text else path)
    assert found == who.identify(steps / 32768)


def test_files_of_other_rates_and_channels(who, tmp_path):
    mono = recording(3000).numpy()
    soundfile.write(tmp_path / "mono.wav", mono, 16000, "FLOAT")
    stereo = np.stack([mono * 2, mono * 0], 1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16000, "FLOAT")
    expected = who.identify(tmp_path / "mono.wav")
    found = who.identify(tmp_path / "stereo.wav")
    for a, b in zip(found, expected):
        assert a.speaker == b.speaker
        assert a.score == pytest.approx(b.score, abs=1e-4)


def test_bad_files(who, tmp_path):
    (tmp_path / "text.wav").write_text("text")
    for name in ("text.wav", "none.wav", "."):
        with pytest.raises(InputError):
            who.identify(tmp_path / name)


def test_from_results(models, who, tmp_path):
    write_pretrained(tmp_path / "pretrained", *models, SPEAKERS, SCALE)
    for folder in (tmp_path, tmp_path / "pretrained"):
        loaded = SpeakerIdentifier.from_results(folder)
        assert loaded.identify(recording(900)) == who.identify(recording(900))
    with pytest.raises(InputError):
        SpeakerIdentifier.from_results(tmp_path / "none")
