"""Angular margins, subcentres and the choice by name, against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from speechbrain.nnet.losses import (
    AdditiveAngularMargin,
    LogSoftmaxWrapper,
    nll_loss,
)

from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.heads import make_classifier, make_loss, make_scores
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.angular_losses import AAMSoftmax, CurricularSoftmax
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.training import checks
from amsincnet_sb.utils.errors import InputError


def cosines(batch=7, classes=5):
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(batch, classes, generator=generator) - 1
    x[0, 0] = -0.999  # beyond pi with a margin
    labels = torch.randint(classes, (batch,), generator=generator)
    labels[0] = 0
    return x.requires_grad_(), labels


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0])
def test_aam_is_speechbrains(margin):
    x, labels = cosines()
    theirs = LogSoftmaxWrapper(AdditiveAngularMargin(margin, 15.0))
    loss = AAMSoftmax(0.7, scale=15.0)
    loss.set_margin(margin)
    expected = theirs(x[:, None], labels[:, None])
    found = loss(x[:, None], labels[:, None], torch.ones(7))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grads = (torch.autograd.grad(each, x)[0] for each in (found, expected))
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)
    wrapped = LogSoftmaxWrapper(loss)(x[:, None], labels[:, None])
    torch.testing.assert_close(wrapped, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [AAMSoftmax, CurricularSoftmax])
def test_exact_cosines_stay_finite(kind):
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    kind(1.0, scale=100.0)(x, torch.tensor([0, 0])).backward()
    assert x.grad.isfinite().all()


def test_curricular_is_its_formula():
    """Y. Huang et al., equations 5 to 9, example by example."""
    x, labels = cosines()
    loss, t = CurricularSoftmax(0.3, scale=12.0), 0.0
    for _ in range(3):
        found = loss(x, labels)
        own = x[range(7), labels]
        t = 0.01 * own.mean().item() + 0.99 * t
        expected = 0.0
        for row, label in zip(x.tolist(), labels.tolist()):
            angle = math.acos(row[label]) + 0.3
            target = math.cos(angle)
            if angle >= math.pi:
                target = row[label] - 0.3 * math.sin(0.3)
            others = [
                c * (t + c) if c > target else c
                for j, c in enumerate(row)
                if j != label
            ]
            total = sum(math.exp(12 * c) for c in [target, *others])
            expected -= math.log(math.exp(12 * target) / total) / 7
        assert found.item() == pytest.approx(expected, rel=1e-4)
        assert loss.t.item() == pytest.approx(t, rel=1e-4)
    with torch.no_grad():  # as in an evaluation
        loss(x, labels)
    loss.eval()(x, labels)
    assert loss.t.item() == pytest.approx(t, rel=1e-4)
    again = CurricularSoftmax(0.3)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.t, loss.t)


def test_a_loss_with_a_state_is_for_one_process(monkeypatch):
    monkeypatch.setattr(checks, "world_size", lambda: 2)
    hparams = {
        "embedding_model": SincNet(fc_neurons=[4]),
        "embedding_size": 4,
        "modules": {},
        "n_speakers": 2,
        "compute_cost": AAMSoftmax(0.2),
    }
    checks.check_network(hparams)
    hparams["compute_cost"] = CurricularSoftmax(0.2)
    with pytest.raises(InputError, match="CurricularSoftmax follows the batch"):
        checks.check_network(hparams)


def test_of_subcentres_the_nearest_counts():
    classify = CosineClassifier(6, 4, subcentres=3)
    x = torch.randn(5, 1, 6, requires_grad=True)
    found = classify(x)
    for i in range(5):
        for speaker in range(4):
            each = [
                F.cosine_similarity(x[i, 0], vector, dim=0)
                for vector in classify.weight[speaker]
            ]
            torch.testing.assert_close(found[i, 0, speaker], max(each))
    grad = torch.autograd.grad(found[0, 0, 0], classify.weight)[0]
    assert (grad.abs().sum(2) > 0).sum() == 1


def test_a_model_of_subcentres_is_read_back(tmp_path):
    net = SincNet(
        window=400,
        cnn_channels=[4],
        cnn_kernel_sizes=[31],
        cnn_pools=[3],
        fc_neurons=[6],
    )
    classify = CosineClassifier(6, 2, subcentres=3)
    write_pretrained(tmp_path, net.eval(), classify, ["a", "b"])
    again = read_pretrained(tmp_path)[1]
    assert again.subcentres == 3
    assert torch.equal(again.weight, classify.weight)
    assert "subcentres: 3" in (tmp_path / "hyperparams.yaml").read_text()


@pytest.mark.parametrize(
    "name, classifier, cost",
    [
        ("am", CosineClassifier, AMSoftmax),
        ("aam", CosineClassifier, AAMSoftmax),
        ("curricular", CosineClassifier, CurricularSoftmax),
        ("softmax", SoftmaxClassifier, nll_loss),
        ("released", SoftmaxClassifier, ReleasedAMSoftmax),
    ],
)
def test_by_name(name, classifier, cost):
    loss = make_loss(name, 0.2, 20.0)
    assert cost in (loss, type(loss))
    if loss is not nll_loss:
        assert (loss.margin.item(), loss.scale) == (pytest.approx(0.2), 20.0)
    assert type(make_classifier(name, 6, 3)) is classifier
    cosine = classifier is CosineClassifier
    scores = make_scores(name, 20.0)(torch.eye(3))
    expected = (torch.eye(3) * (20.0 if cosine else 1.0)).log_softmax(-1)
    assert torch.equal(scores, expected)
    if cosine:
        assert make_classifier(name, 6, 3, 2).subcentres == 2
    else:
        with pytest.raises(ValueError, match=f"the loss {name} is not of"):
            make_classifier(name, 6, 3, 2)
