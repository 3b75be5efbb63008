"""Naming and comparing speakers of recordings of any length."""

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.inference import audio_windows
from amsincnet_sb.inference.identifier import Candidate, SpeakerIdentifier
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP = 200, 100
FOUR = ["ann", "bob", "cat", "dan"]


@pytest.fixture(
    scope="module", params=[(CosineClassifier, 10.0), (SoftmaxClassifier, 1.0)]
)
def four(models, request):
    """A model of four speakers who each get some of the windows of noise."""
    kind, scale = request.param
    torch.manual_seed(3)
    classify = kind(16, 4).requires_grad_(False)
    torch.nn.init.normal_(next(classify.parameters()))
    return models[0], classify, FOUR, scale


def recording(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


def naive(model, wave):
    """Log-posteriors and embedding of every window."""
    net, classify, _, scale = model
    if len(wave) < WINDOW:
        wave = wave.repeat(-(-WINDOW // len(wave)))[:WINDOW]
    scores, embeddings = [], []
    for start in range(0, len(wave) - WINDOW + 1, HOP):
        embedding = net(wave[None, start : start + WINDOW])
        logits = scale * classify(embedding).flatten().numpy().astype(float)
        scores.append(logits - np.log(np.exp(logits).sum()))
        embeddings.append(embedding.flatten().numpy())
    return np.array(scores), np.array(embeddings)


@pytest.mark.parametrize("samples", [1, 13, 199, 200, 299, 300, 3000])
def test_scores_probabilities_and_d_vectors(four, samples):
    who, wave = SpeakerIdentifier(*four), recording(samples)
    scores, embeddings = naive(four, wave)
    if samples == 3000:
        assert len(set(scores.argmax(1))) > 1  # windows disagree
    order = np.argsort(-scores.mean(0))
    found = who.identify(wave, top_k=4)
    assert [c.speaker for c in found] == [FOUR[i] for i in order]
    limit = 1.0
    for candidate, i in zip(found, order):
        assert isinstance(candidate, Candidate)
        assert type(candidate.score) is type(candidate.probability) is float
        limit = min(limit, np.exp(scores[:, i]).mean())
        assert candidate.score == pytest.approx(scores[:, i].mean(), abs=1e-4)
        assert candidate.probability == pytest.approx(limit, abs=1e-5)
        assert candidate.share == candidate.probability
    assert sum(c.probability for c in found) <= 1 + 1e-6
    for top_k in (1, 2, 99):
        assert who.identify(wave, top_k) == found[:top_k]
    np.testing.assert_allclose(who.embed(wave), embeddings.mean(0), atol=1e-4)


@pytest.mark.parametrize("windows_per_batch", [1, 2, 7, 29, 30])
def test_batches_change_nothing(four, monkeypatch, windows_per_batch):
    sizes = []
    pieces = SpeakerIdentifier(*four, windows_per_batch)
    embed = pieces._embed
    monkeypatch.setattr(
        pieces,
        "_embed",
        lambda *x: sizes.append(sum(map(len, x))) or embed(*x),
    )
    waves = [recording(3049), recording(700, 1)]
    found = pieces.identify(waves, top_k=4)
    assert sum(sizes) == 29 + 6 and max(sizes) <= windows_per_batch
    whole = SpeakerIdentifier(*four)
    for answer, embedding, wave in zip(found, pieces.embed(waves), waves):
        for a, b in zip(answer, whole.identify(wave, top_k=4)):
            assert a.speaker == b.speaker
            assert a[1:] == pytest.approx(b[1:], abs=1e-5)
        assert torch.allclose(embedding, whole.embed(wave), atol=1e-5)


@pytest.mark.parametrize("windows_per_batch", [1, 5, 4096])
@pytest.mark.parametrize("where", ["before", "within", "behind"])
def test_digital_silence_is_nobodys(four, where, windows_per_batch, tmp_path):
    """Its windows, which are alike in all recordings, do not count."""
    dither = torch.arange(3000.0) % 2 / 2**15
    parts = [recording(1000), dither, recording(400, 1)]
    wave = torch.cat(
        {"before": parts[1:], "behind": parts[:2]}.get(where, parts)
    )
    counts = wave.unfold(0, WINDOW, HOP).std(1) > 1e-3
    assert 3 <= counts.sum() <= len(counts) - 20
    expected = naive(four, wave)[1][counts.numpy()].mean(0)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave.numpy(), 16000, "FLOAT")
    who = SpeakerIdentifier(*four, windows_per_batch)
    for given in (wave, path):
        np.testing.assert_allclose(who.embed(given), expected, atol=1e-4)
    assert len(who.embed(torch.zeros(3000)))  # asked for, it is answered


@pytest.mark.parametrize(
    "wave, complaint",
    [
        (torch.zeros(0), "empty or contains NaN"),
        (torch.tensor([0.1, float("nan")]), "empty or contains NaN"),
        (torch.full((500,), float("inf")), "empty or contains NaN"),
    ],
)
def test_useless_tensors(who, wave, complaint):
    with pytest.raises(InputError, match=complaint):
        who.identify(wave)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [3, 3.37])
def test_a_file_in_pieces(who, analyse, tmp_path, monkeypatch, rate, seconds):
    generator = np.random.default_rng(0)
    samples = 0.1 * generator.standard_normal((int(rate * seconds), 2))
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, rate)
    (whole,) = audio_windows.blocks_of(path, 16000)
    expected = analyse(who, path)
    monkeypatch.setattr(audio_windows, "BLOCK", rate)
    pieces = list(audio_windows.blocks_of(path, 16000))
    assert len(pieces) == np.ceil(seconds)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)
    batches = audio_windows._windows_of(path, WINDOW, HOP, 16000, 7)
    assert sum(map(len, batches)) == (len(whole) - WINDOW) // HOP + 1
    for a, b in zip(analyse(who, path), expected):
        assert torch.allclose(a, b, atol=1e-4)


def test_verification_is_a_cosine(who, voice, analyse):
    a, b, c = voice(2500), voice(2500, 0.3, seed=1), voice(300)
    same, other = who.verify(a, b, 0.7), who.verify(a, c, 0.7)
    for found, second in ((same, b), (other, c)):
        x, y = (analyse(who, one).direction for one in (a, second))
        cosine = (x @ y / x.norm() / y.norm()).item()
        assert found.score == pytest.approx(cosine, abs=1e-6)
        assert found.accepted is (cosine > 0.7)
    assert same.accepted and not other.accepted
    assert not who.verify(a, b, same.score).accepted


def test_verification_against_a_cohort(who, voice, analyse):
    a, b = voice(2500), voice(2500, 0.3, seed=1)
    pitches = [300, 700, 1500, 2000, 3000, 3500, 4000]
    who.cohort = torch.stack(
        [analyse(who, voice(pitch, seed=5)).direction for pitch in pitches]
    )
    x, y = (analyse(who, one).direction.numpy() for one in (a, b))

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    expected = 0
    for side in (x, y):
        nearest = sorted(cosine(side, c) for c in who.cohort.numpy())[-5:]
        spread = np.std(nearest, ddof=1)
        expected += (cosine(x, y) - np.mean(nearest)) / spread / 2
    found = who.verify(a, b, 1.0)
    assert found.score == pytest.approx(expected, rel=1e-3)
    assert found.accepted is bool(expected > 1.0)


def test_the_unknown_win_below_the_threshold_and_not_above(who, voice):
    who.hop = 50
    best, other = who.identify(voice(4000), 2)
    assert best.share + other.share == pytest.approx(1)
    named = who.identify(voice(4000), 3, best.share - 0.001)
    refused = who.identify(voice(4000), 3, best.share + 0.001)
    assert named == [best, other]
    assert refused == [("unknown", None, None), best, other]
    assert who.identify(voice(4000), 1, best.share) == refused[:1]
    who.calibration = {"identification": {"threshold": best.share + 0.001}}
    assert who.identify(voice(4000), 3, "calibrated") == refused
