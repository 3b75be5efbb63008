"""The margin's warm-up, as unmodified scripts drive it."""

import copy
import pickle

import pytest
import torch
from speechbrain.nnet.losses import AngularMargin, LogSoftmaxWrapper
from speechbrain.utils.checkpoints import Checkpointer

from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.nnet.warmup import MarginWarmup

TARGETS = torch.tensor([[0], [3], [1]])


def cosines(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, 4, generator=generator).requires_grad_()


def test_the_margin_of_every_batch():
    cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=4, start_step=2)
    for step, margin in enumerate([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4]):
        assert cost.steps == step
        loss = cost(cosines(step), TARGETS, torch.ones(3))
        assert torch.equal(loss, AMSoftmax(margin)(cosines(step), TARGETS))
        loss.backward()


def test_validation_does_not_count():
    cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=4)
    for _ in range(3):
        cost(cosines(), TARGETS)
    with torch.no_grad():
        for _ in range(5):  # with the margin that training has come to
            loss = cost(cosines(), TARGETS)
            assert torch.equal(loss, AMSoftmax(0.3)(cosines(), TARGETS))
    assert cost.steps == 3
    cost.eval()  # where a recipe does switch it
    cost(cosines(), TARGETS)
    assert cost.steps == 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_run_goes_on_with_its_margin(tmp_path, wrapped):
    def make():
        cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=8)
        return LogSoftmaxWrapper(cost) if wrapped else cost

    straight, first = make(), make()
    for _ in range(3):
        straight(cosines(), TARGETS)
        first(cosines(), TARGETS)
    Checkpointer(tmp_path, {"compute_cost": first}).save_checkpoint()

    second = make()
    Checkpointer(tmp_path, {"compute_cost": second}).recover_if_possible()
    for _ in range(3):
        losses = [cost(cosines(), TARGETS) for cost in (straight, second)]
        assert torch.equal(*losses)
    # The file holds numbers alone.
    (file,) = tmp_path.glob("CKPT*/compute_cost.ckpt")
    torch.load(file, weights_only=True)


def test_copies():
    cost = MarginWarmup(AMSoftmax(0.4), warmup_steps=8)
    cost(cosines(), TARGETS)
    for twin in (copy.deepcopy(cost), pickle.loads(pickle.dumps(cost))):
        assert twin.steps == 1 and twin.margin.final == cost.margin.final
        assert torch.equal(twin(cosines(), TARGETS), _with(0.05))
        assert (twin.steps, cost.steps) == (2, 1)


def _with(margin):
    return AMSoftmax(margin)(cosines(), TARGETS)


# In the place of AdditiveAngularMargin ----------------------------------------


def test_am_softmax_in_log_softmax_wrapper():
    ours = LogSoftmaxWrapper(AMSoftmax(0.2, scale=30))
    theirs = LogSoftmaxWrapper(AngularMargin(0.2, scale=30))
    x, y = cosines(), cosines()
    for cost, scores in ((ours, x), (theirs, y)):
        cost(scores, TARGETS, torch.ones(3)).backward()
    torch.testing.assert_close(x.grad, y.grad)
    loss = ours(x, TARGETS)
    torch.testing.assert_close(loss, theirs(x, TARGETS))
    torch.testing.assert_close(loss, AMSoftmax(0.2)(x, TARGETS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_logits_of_half_precision_scores_are_float32(dtype):
    scores = cosines().detach().to(dtype)
    with torch.autocast("cpu", dtype):
        loss = LogSoftmaxWrapper(AMSoftmax(0.2))(scores, TARGETS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, AMSoftmax(0.2)(scores.float(), TARGETS))


def test_the_released_loss_refuses_that_place():
    with pytest.raises(ValueError, match="without LogSoftmaxWrapper"):
        LogSoftmaxWrapper(ReleasedAMSoftmax(0.2))(cosines(), TARGETS)


def test_logits_are_plain_scores_but_for_the_target():
    x = cosines().squeeze(1)
    one_hot = torch.nn.functional.one_hot(TARGETS.flatten(), 4).float()
    expected = 30 * x - 30 * 0.2 * one_hot
    torch.testing.assert_close(AMSoftmax(0.2)(x, one_hot), expected)
