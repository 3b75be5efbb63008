"""Margin losses against SpeechBrain's; the warm-up.

Against their equations: test_parity.py.
"""

import math

import pytest
import torch
from speechbrain.nnet.losses import AngularMargin, LogSoftmaxWrapper
from speechbrain.utils.checkpoints import Checkpointer

from amsincnet_sb.nnet.losses import AMSoftmax, MarginWarmup, ReleasedAMSoftmax
from amsincnet_sb.training.checks import check_network
from amsincnet_sb.utils.errors import InputError

BOTH = pytest.mark.parametrize("kind", [AMSoftmax, ReleasedAMSoftmax])


def cosines(batch=6, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    return 2 * x - 1, labels


@BOTH
def test_shapes_and_lengths(kind):
    x, labels = cosines()
    x = x.log_softmax(-1)
    loss = kind(0.25)
    expected = loss(x, labels)
    assert expected.shape == ()
    assert torch.equal(loss(x[:, None], labels), expected)
    assert torch.equal(loss(x, labels[:, None]), expected)
    lengths = torch.linspace(0.1, 1, 6)
    assert torch.equal(loss(x[:, None], labels[:, None], lengths), expected)


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integers(kind, dtype):
    """As ``LogSoftmaxWrapper`` takes them, in whose place it stands."""
    predictions = torch.randn(4, 1, 3).log_softmax(-1)
    labels = torch.tensor([[0], [2], [1], [0]])
    loss = kind(0.2)
    assert loss(predictions, labels.to(dtype)) == loss(predictions, labels)


def test_extreme_cosines_stay_finite():
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    loss = AMSoftmax(1.0, scale=1000.0)(x, torch.tensor([1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(3000.0)
    assert x.grad.isfinite().all()


@BOTH
def test_ranges(kind):
    loss = kind(0.5)
    for margin in (-0.01, 1.01, math.nan, math.inf):
        for change in (kind, loss.set_margin):
            with pytest.raises(ValueError, match=f"{kind.__name__}: margin"):
                change(margin)
    assert loss.margin == 0.5
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"{kind.__name__}: scale"):
            kind(0.5, scale)


def test_set_margin_is_in_place_and_counts():
    x, labels = cosines()
    loss = AMSoftmax(0.0)
    buffer, address = loss.margin, loss.margin.data_ptr()
    loss.set_margin(0.5)
    assert loss.margin is buffer and buffer.data_ptr() == address
    assert torch.equal(loss(x, labels), AMSoftmax(0.5)(x, labels))
    assert loss(x, labels) > AMSoftmax(0.0)(x, labels)
    assert not loss.state_dict()  # a schedule's value, not a parameter's
    assert "margin=0.5" in repr(loss)


# Inside SpeechBrain's LogSoftmaxWrapper ---------------------------------------


def test_am_softmax_equals_speechbrains():
    """Alone and in the place of AngularMargin."""
    results = []
    for cost in (
        AMSoftmax(0.35, 15.0),
        LogSoftmaxWrapper(AMSoftmax(0.35, 15.0)),
        LogSoftmaxWrapper(AngularMargin(0.35, 15.0)),
    ):
        x, labels = cosines(batch=8, classes=40)
        x = x.float().unsqueeze(1).requires_grad_()
        loss = cost(x, labels[:, None], torch.ones(8))
        loss.backward()
        results.append((loss.detach(), x.grad))
    for ours in results[:2]:
        torch.testing.assert_close(ours, results[2], rtol=1e-5, atol=1e-6)


def test_the_released_loss_refuses_that_place():
    x, labels = cosines()
    with pytest.raises(ValueError, match="without LogSoftmaxWrapper"):
        LogSoftmaxWrapper(ReleasedAMSoftmax(0.2))(x[:, None], labels[:, None])


# MarginWarmup -----------------------------------------------------------------


def loss_of(cost):
    """Loss of a training batch, always the same."""
    x, labels = cosines()
    return cost(x.requires_grad_(), labels, torch.ones(len(x)))


def test_the_margin_of_every_batch():
    cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=4)
    for step, margin in enumerate([0, 0.1, 0.2, 0.3, 0.4, 0.4]):
        assert cost.steps == step
        loss = loss_of(cost)
        assert torch.equal(loss, loss_of(AMSoftmax(margin)))
        loss.backward()


def test_validation_does_not_count():
    cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=4)
    for _ in range(3):
        loss_of(cost)
    with torch.no_grad():  # with the margin that training has come to
        assert torch.equal(loss_of(cost), loss_of(AMSoftmax(0.3)))
    assert cost.steps == 3
    cost.eval()  # where a recipe does switch it
    loss_of(cost)
    assert cost.steps == 3


def test_a_run_goes_on_with_its_margin(tmp_path):
    def make():
        return MarginWarmup(AMSoftmax(0.4), warmup_steps=8)

    first, second = make(), make()
    for _ in range(3):
        loss_of(first)
    Checkpointer(tmp_path, {"compute_cost": first}).save_checkpoint()
    Checkpointer(tmp_path, {"compute_cost": second}).recover_if_possible()
    for _ in range(3):
        assert torch.equal(loss_of(first), loss_of(second))
    # The file can be read without unpickling objects.
    (file,) = tmp_path.glob("CKPT*/compute_cost.ckpt")
    torch.load(file, weights_only=True)


def test_this_recipe_has_a_schedule_of_its_own():
    """Whose step may be a replay, in which nothing is counted."""
    cost = LogSoftmaxWrapper(MarginWarmup(AMSoftmax(0.4), warmup_steps=8))
    with pytest.raises(InputError, match="a LinearRamp its margin_schedule"):
        check_network({"embedding_model": None, "compute_cost": cost})
