"""Equality with what the released AM-SincNet code computes.

First against what it produced (see ``tests/fixtures/README.md``), then, for
architectures and sample rates that are not among that, against its formulas
in float64 (``tests/reference.py``), which share no code with the package.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import SlidingWindows
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.original import _their_names, load_original
from amsincnet_sb.training.metrics import SentenceErrors
from amsincnet_sb.training.results import published_curves

FIXTURES = Path(__file__).parents[1] / "fixtures"
MARGINS = [m / 100 for m in range(5, 100, 5)]


def _load(name):
    with np.load(FIXTURES / name) as file:
        return dict(file)


@pytest.fixture(scope="module")
def small():
    return _load("small_model.npz")


def _relative(ours, theirs):
    """Largest difference, relative to the largest value."""
    ours = ours.detach().double().numpy()
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# Numbers of the released code ------------------------------------------------


@pytest.mark.parametrize("moved", ["", "moved_"])
def test_filters(moved):
    filters, layer = _load("sinc_filters.npz"), SincConv()
    if not moved:
        assert _relative(layer.low, filters["b1"]) < 1e-6
        assert _relative(layer.band, filters["band"]) < 1e-6
    layer.low.data = torch.tensor(filters[moved + "b1"]).float()
    layer.band.data = torch.tensor(filters[moved + "band"]).float()
    ours = layer.filters().detach().numpy()[filters["rows"]]
    # The released arithmetic is float32, itself 8e-6 off.
    assert np.abs(ours - filters[moved + "filters"]).max() < 2e-5


@pytest.mark.parametrize("margin", MARGINS)
def test_loss(margin):
    losses = _load("released_loss.npz")
    p = torch.tensor(losses["log_prob"], requires_grad=True)
    loss = ReleasedAMSoftmax(margin)(p, torch.tensor(losses["label"]))
    key = f"m{round(100 * margin):03d}"
    assert loss.item() == pytest.approx(float(losses[f"loss_{key}"]), rel=1e-5)
    if f"grad_{key}" in losses:
        loss.backward()
        ours = p.grad[losses["grad_rows"]]
        assert _relative(ours, losses[f"grad_{key}"]) < 1e-4


def _named(models):
    """(released name, our tensor) of all parameters and statistics."""
    tables = _their_names(models[0].arguments)
    for model, table in zip(models, tables):
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in table:
                yield table[name].replace("_model_par", ""), tensor


@pytest.fixture(params=[False, True], ids=["plain", "fast"])
def models(request):
    """The small network with its weights."""
    network, classifier = load_original(FIXTURES / "model_raw_small.pkl")
    network.hop, network.fast = 40, request.param
    return network, classifier


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_outputs(small, models, mode):
    network, classifier = (model.train(mode == "train") for model in models)
    wave = torch.tensor(small["wave"])
    with torch.no_grad():
        cnn = network.cnn(wave)
        embedding = network(wave)
        scores = classifier(embedding)
    assert _relative(cnn, small[f"{mode}:cnn"]) < 1e-5
    assert _relative(embedding[:, 0], small[f"{mode}:embedding"]) < 1e-5
    assert _relative(scores[:, 0], small[f"{mode}:log_prob"]) < 1e-5


def _nll(scores, labels):
    return torch.nn.functional.nll_loss(scores[:, 0], labels)


CRITERIA = {
    "nll": _nll,
    "am_m005": ReleasedAMSoftmax(0.05),
    "am_m050": ReleasedAMSoftmax(0.5),
}


def _is_cancelled(name):
    """Of a bias before a normalisation, the gradient is but rounding."""
    return name == "DNN1/ln0.beta" or (
        name.endswith("bias") and name.startswith(("CNN/conv.", "DNN1/wx."))
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradients(small, models, criterion):
    network, classifier = (model.train() for model in models)
    scores = classifier(network(torch.tensor(small["wave"])))
    loss = CRITERIA[criterion](scores, torch.tensor(small["label"]))
    loss.backward()
    expected = float(small[f"{criterion}:loss"])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    compared = 0
    for name, parameter in _named(models):
        theirs = small.get(f"{criterion}:grad/{name}")
        if theirs is None:
            continue
        compared += 1
        if _is_cancelled(name):
            # What float32 leaves of a sum that is zero: 2e-7 at most on
            # either side, where real gradients here reach 8e-3 and more.
            assert np.abs(theirs).max() < 1e-6, name
            assert parameter.grad.abs().max() < 1e-6, name
        else:
            assert _relative(parameter.grad, theirs) < 1e-4, name
    assert compared == (26 if criterion == "am_m050" else 30)
    statistics = [(k, v) for k, v in _named(models) if "running" in k]
    assert len(statistics) == 6
    for name, tensor in statistics:
        theirs = small[f"after_one_rmsprop_step_am_m005:{name}"]
        assert np.abs(tensor.numpy() - theirs).max() < 1e-6, name


@pytest.fixture(scope="module")
def sentences(small):
    found = {}
    for key, value in small.items():
        if key.startswith("sentence:"):
            number, name = key.removeprefix("sentence:").split("/")
            found.setdefault(int(number), {})[name] = value
    return [found[number] for number in range(len(found))]


def _evaluate(models, sentences, batch_size):
    """Scores of every row, and the errors, of the released evaluation."""
    network, classifier = (model.eval() for model in models)
    audio = ResidentAudio(
        [torch.tensor(s["wave"]) for s in sentences],
        [int(s["label"]) for s in sentences],
        [str(i) for i in range(len(sentences))],
    )
    windows = SlidingWindows(
        audio, network.window, network.hop, batch_size, released=True
    )
    errors = SentenceErrors(audio.labels, windows.empty_row)
    rows = [[] for _ in sentences]
    for i in range(len(windows)):
        batch = windows[i]
        with torch.no_grad():
            scores = classifier(network(batch.sig.data))
        errors.append(batch.utterance, scores)
        for sentence, row in zip(batch.utterance.tolist(), scores[:, 0]):
            rows[sentence].append(row)
    return rows, errors


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_sentence_rows(sentences, models, batch_size):
    spare = [(len(s["wave"]) - 800) % 40 for s in sentences]
    assert 0 in spare and any(spare)  # both cases are there
    for s, rows in zip(sentences, _evaluate(models, sentences, batch_size)[0]):
        assert len(rows) == s["rows_filled"]
        theirs = s["log_prob_rows"]
        empty = len(theirs) - len(rows)
        assert empty == ((len(s["wave"]) - 800) % 40 == 0)
        assert not theirs[len(rows) :].any()
        assert _relative(torch.stack(rows), theirs[: len(rows)]) < 1e-5


def test_sentence_errors_and_decisions(sentences, models):
    for s in sentences:
        _, errors = _evaluate(models, [s], 16)
        decision = errors.scores.argmax(-1).item()
        assert decision == s["best_class"]
        summary = errors.summarize()
        assert summary["frame_error"] == pytest.approx(
            100 * float(s["frame_error"]), abs=1e-4
        )
        assert summary["sentence_error"] == 100 * (decision != s["label"])
    _, errors = _evaluate(models, sentences, 16)
    mean = 100 * np.mean([s["frame_error"] for s in sentences])
    assert errors.summarize()["frame_error"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("label", [0, 3])
def test_the_empty_row_counts_for_speaker_0(sentences, models, label):
    waves = {len(s["wave"]): s["wave"] for s in sentences}
    # One window, decided for 3, and one row that nobody fills.
    _, errors = _evaluate(models, [{"wave": waves[840], "label": label}], 4)
    wrong = 100.0 * (label != 3)
    summary = errors.summarize()
    assert summary == {"frame_error": 50.0, "sentence_error": wrong}
    # The empty row alone, beside a sentence without an error.
    one = {"wave": waves[839][:800], "label": label}
    rows, errors = _evaluate(models, [one, {"wave": waves[839], "label": 3}], 4)
    assert [len(r) for r in rows] == [0, 1]
    half = 50.0 * (label != 0)
    assert errors.summarize() == {"frame_error": half, "sentence_error": half}


def test_published_curves():
    curves = published_curves()
    assert list(curves) == [None, *MARGINS]
    # The figures that the paper and its logs are known by.
    late = [
        (curves[m].frame_error[i], curves[m].sentence_error[i])
        for m in MARGINS
        for i in np.flatnonzero(
            (curves[m].epoch >= 296) & (curves[m].epoch <= 352)
        )
    ]
    frame, sentence = np.mean(late, axis=0)
    assert frame == pytest.approx(28.0, abs=0.05)
    assert sentence == pytest.approx(0.43, abs=0.005)
    for margin in MARGINS:
        last = curves[margin].train_loss[-1]
        assert 3.50 < last - 30 * margin < 3.51


# Formulas of the released code, in float64, for other shapes -----------------


SHAPES = {
    # rate, window, channels, taps, pools, fully connected, classes
    "8kHz": (8000, 240, [5, 4], [31, 3], [3, 2], [7, 6], 4),
    "one-layer": (16000, 150, [6], [25], [4], [8], 3),
    "no-pooling": (22050, 90, [3, 4, 2], [21, 3, 4], [1, 2, 1], [5, 5], 6),
    "four-layers": (11025, 300, [4, 3, 3, 2], [41, 5, 3, 2], [2] * 4, [6], 5),
    "long-taps": (16000, 400, [8, 3], [129, 5], [3, 3], [9, 4, 3, 5], 7),
}


@pytest.fixture(
    params=[(name, fast) for name in SHAPES for fast in (False, True)],
    ids=lambda each: f"{each[0]}-{'fast' if each[1] else 'plain'}",
)
def other(request):
    """A network of another shape, in float64, with windows and labels."""
    name, fast = request.param
    *shape, classes = SHAPES[name]
    given = {**reference.arguments_of(shape), "fast": fast}
    network = SincNet(**given, linear_embedding=name == "8kHz")
    classifier = SoftmaxClassifier(network.embedding_size, classes)
    for seed, model in enumerate((network, classifier)):
        reference.as_if_trained(model, seed).double()
    waves = torch.randn(6, network.window, dtype=torch.float64)
    return (network, classifier), waves, torch.randint(classes, (6,))


def _expected(models, waves):
    """Convolutional part, embedding and log-posteriors by the formulas."""
    network, classifier = models
    features, embedding = reference.sincnet(network, waves)
    logits = embedding @ classifier.linear.weight.T + classifier.linear.bias
    return features, embedding, logits.log_softmax(-1)


@pytest.mark.parametrize("training", [True, False])
def test_other_shapes_outputs(other, training):
    models, waves, _ = other
    network, classifier = (model.train(training) for model in models)
    with torch.no_grad():
        expected = [each.numpy() for each in _expected(models, waves)]
        embedding = network(waves)
        ours = network.cnn(waves), embedding[:, 0], classifier(embedding)[:, 0]
        for mine, theirs in zip(ours, expected):
            assert _relative(mine, theirs) < 1e-10
        network.float(), classifier.float()
        scores = classifier(network(waves.float()))[:, 0]
        assert _relative(scores, expected[2]) < 1e-5


def test_other_shapes_gradients(other):
    models, waves, labels = other
    margin = 0.25  # a float32 too
    parameters = [p for model in models for p in model.train().parameters()]
    expected = reference.released_loss(
        _expected(models, waves)[2], labels, margin
    )
    wanted = torch.autograd.grad(expected, parameters)
    network, classifier = models
    loss = ReleasedAMSoftmax(margin)(classifier(network(waves)), labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    got = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(got, wanted):
        # Those that a normalisation cancels are rounding noise on both sides.
        scale = max(theirs.abs().max().item(), 1e-3)
        assert (ours - theirs).abs().max() < 1e-6 * scale


@pytest.mark.parametrize("classes, batch", [(2, 3), (10, 8), (40, 5)])
@pytest.mark.parametrize(
    "margin, scale", [(0.0, 30), (0.05, 30), (0.35, 64), (0.95, 1)]
)
def test_loss_formulas(classes, batch, margin, scale):
    torch.manual_seed(classes)
    cosines = torch.rand(batch, classes, dtype=torch.float64) * 2 - 1
    labels = torch.randint(classes, (batch,))
    for kind, formula, x in (
        (AMSoftmax, reference.am_softmax, cosines),
        (ReleasedAMSoftmax, reference.released_loss, cosines.log_softmax(-1)),
    ):
        loss = kind(margin, scale)(x[:, None], labels[:, None])
        expected = formula(x, labels, margin, scale)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_released_loss_is_stable_where_the_original_overflows():
    # A batch of one makes every q equal to -1; large scales underflow exp().
    p = torch.tensor([[-0.5, -1.2, -2.0]], requires_grad=True)
    loss = ReleasedAMSoftmax(0.95, scale=200.0)(p, torch.tensor([1]))
    loss.backward()
    # -log(own / (own + rest + 1e-12)) with all exponentials far below 1e-12
    assert loss.item() == pytest.approx(200 * 1.95 + math.log(1e-12), rel=1e-6)
    assert p.grad.isfinite().all()
