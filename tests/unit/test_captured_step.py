"""The captured training step against a loop written by hand."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

from amsincnet_sb.nnet.losses import AMSoftmax
from amsincnet_sb.nnet.muon import Muon
from amsincnet_sb.training.captured_step import CapturedStep

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.95),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "muon": lambda p: Muon(p, lr=1e-3),
}
# On GPUs Muon orthogonalises in bfloat16, which the graph rounds at other places.
ROUNDING = {"muon": 1e-3}
on_all_devices = pytest.mark.parametrize("device", DEVICES)
with_all_optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
with_state = pytest.mark.parametrize("name", ["adamw", "muon"])


class Task:
    """A small classifier, its batches and the sum of its losses."""

    def __init__(self, device, name="sgd"):
        torch.manual_seed(0)
        self.device = device
        self.net = nn.Sequential(
            # A bias before the normalisation would have a gradient of noise.
            nn.Linear(6, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ).to(device)
        self.loss = AMSoftmax(0.1, scale=5.0).to(device)
        self.grid = torch.arange(96.0, device=device).view(16, 6)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.optimizer = OPTIMIZERS[name](self.net.parameters())

    def batch(self, step):
        x = torch.sin(self.grid * (step + 1))
        return x, (self.grid[:, 0].long() + step) % 3

    def __call__(self, x, labels):
        loss = self.loss(self.net(x), labels)
        self.total.add_(loss.detach())
        return loss

    def captured(self, loss_fn=None, **options):
        state = [*self.net.buffers(), self.total]
        loss_fn = loss_fn or self
        return CapturedStep(loss_fn, self.optimizer, state=state, **options)

    def train(self, step, numbers):
        for number in numbers:
            step(number, *self.batch(number))

    def by_hand(self, numbers, max_grad_norm=math.inf):
        """The same with a loop."""
        for number in numbers:
            self.optimizer.zero_grad()
            self(*self.batch(number)).backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), max_grad_norm)
            self.optimizer.step()

    def saved(self):
        states = self.net.state_dict(), self.optimizer.state_dict()
        return copy.deepcopy(states)

    def load(self, saved):
        saved = copy.deepcopy(saved)
        self.net.load_state_dict(saved[0])
        self.optimizer.load_state_dict(saved[1])


def assert_equal(one, other, tolerance=0.0):
    """Parameters and buffers of two tasks."""
    states = (task.net.state_dict().values() for task in (one, other))
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@on_all_devices
@with_all_optimizers
@pytest.mark.parametrize("limit", [math.inf, 0.1])
def test_equals_a_loop_by_hand(device, name, limit):
    """Parameters, buffers and the sum of the losses."""
    ours, plain = Task(device, name), Task(device, name)
    step = ours.captured(max_grad_norm=limit)
    ours.train(step, range(5, 13))
    plain.by_hand(range(5, 13), limit)
    assert step.captured == (device == "cuda")
    assert ours.total.item() == pytest.approx(
        plain.total.item(), rel=ROUNDING.get(name, 1e-4)
    )
    assert_equal(ours, plain, 1e-3)


@on_all_devices
@pytest.mark.parametrize("sharpness", [0.0, 0.05])
def test_a_step_draws_its_batch(device, sharpness):
    """From its number, which is all that it is given."""
    ours, plain = Task(device, "adamw"), Task(device, "adamw")
    options = {"sharpness_radius": sharpness}
    step = ours.captured(draw=ours.batch, **options)
    for number in (5, 6, 7, 9, 5, 8):
        step(number)
    plain.train(plain.captured(**options), (5, 6, 7, 9, 5, 8))
    assert step.captured == (device == "cuda")
    assert ours.total.item() == pytest.approx(plain.total.item(), rel=1e-5)
    assert_equal(ours, plain, 1e-5)


def test_a_step_is_not_done_with_the_batch_before():
    task = Task("cpu")
    step = task.captured()
    step(1, *task.batch(1))
    with pytest.raises(ValueError, match="shorter"):
        step(2)


@on_all_devices
def test_rate_and_margin_change_between_steps(device):
    """As floats, as schedulers set them, and seen by the captured step."""
    ours, plain = Task(device), Task(device)
    step = ours.captured()
    ours.train(step, range(5))
    plain.by_hand(range(5))
    for task in (ours, plain):
        task.loss.set_margin(0.9)
        task.total.zero_()
    ours.optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(list(ours.net.parameters()))
    ours.train(step, [5])
    plain.by_hand([5])
    assert ours.total.item() == pytest.approx(plain.total.item(), rel=1e-4)
    assert all(map(torch.equal, before, ours.net.parameters()))


@on_all_devices
@with_state
def test_resumes_bit_for_bit(device, name):
    """State saved between steps and loaded: into the step, into new ones."""
    task = Task(device, name)
    step = task.captured()
    states = []
    for number in range(6):
        task.train(step, [number])
        states.append(task.saved())
    task.load(states[1])
    task.train(step, range(2, 6))
    assert step.captured == (device == "cuda")
    tasks = [task]
    for done in range(1, 6):
        tasks.append(Task(device, name))
        tasks[-1].load(states[done - 1])
        tasks[-1].train(tasks[-1].captured(), range(done, 6))
    for other in tasks:
        assert_equal(other, task)
    for key, value in states[-1][0].items():
        assert torch.equal(task.net.state_dict()[key], value)


@on_gpu
def test_says_why_it_does_not_capture(caplog):
    """A loss that waits for the host is trained without a graph."""
    task = Task("cuda")

    def waits(x, labels):
        noise = torch.rand((), device="cuda")
        factor = 1.0 if x[0, 0].item() >= -9 else 2.0
        return task(x, labels) * factor + 0 * noise

    step = task.captured(waits, compile=False)
    with caplog.at_level(logging.WARNING):
        task.train(step, range(6))
    assert not step.captured
    assert sum("without a CUDA graph" in m for m in caplog.messages) == 1
    plain = Task("cuda")
    plain.by_hand(range(6))
    assert_equal(task, plain, 1e-3)


@on_all_devices
@with_state
@pytest.mark.parametrize("limit", [math.inf, 0.1])
def test_a_skipped_step_changes_nothing(device, name, limit):
    """Neither parameters, nor statistics, nor sums; its number is kept."""
    ours, plain = Task(device, name), Task(device, name)
    numbers = [0, 1, 2, 3, 5, 7]

    def loss_fn(x, labels):
        return ours(x, labels) * torch.where(x[0, 0] > 5, float("inf"), 1.0)

    step = ours.captured(loss_fn, max_grad_norm=limit)
    for number in range(8):
        x, labels = ours.batch(number)
        step(number, x if number in numbers else x + 10, labels)
    plain.by_hand(numbers, limit)
    assert ours.total.item() == pytest.approx(
        plain.total.item(), rel=ROUNDING.get(name, 1e-4)
    )
    assert step.read_skipped() == [4, 6] and step.read_skipped() == []
    assert_equal(ours, plain, 1e-3)


def test_the_latest_skipped_steps_are_remembered():
    layer = nn.Linear(2, 1)
    step = CapturedStep(
        lambda x: layer(x).sum() / 0,
        torch.optim.SGD(layer.parameters(), lr=0.1),
    )
    for number in range(70):
        step(number, torch.ones(2))
    assert step.read_skipped() == list(range(6, 70))
    step(70, torch.ones(2))
    assert step.read_skipped() == [70]


@on_all_devices
@pytest.mark.parametrize("limit", [math.inf, 0.1])
def test_sharpness_is_the_papers_step(device, limit):
    """Weights move by the radius along the gradient; the rest stays."""
    ours, plain = Task(device, "adamw"), Task(device, "adamw")
    step = ours.captured(max_grad_norm=limit, sharpness_radius=0.1)
    ours.train(step, range(8))
    net = plain.net
    weights = [net[0].weight, net[3].weight]
    for number in range(8):
        x, labels = plain.batch(number)
        plain.optimizer.zero_grad()
        statistics = copy.deepcopy(list(net.buffers()))
        plain.loss(net(x), labels).backward()
        for buffer, before in zip(net.buffers(), statistics):
            buffer.copy_(before)
        moves = [weight.grad.clone() for weight in weights]
        norm = math.sqrt(sum(move.square().sum().item() for move in moves))
        with torch.no_grad():
            for weight, move in zip(weights, moves):
                weight.add_(move, alpha=0.1 / norm)
        plain.optimizer.zero_grad()
        plain(x, labels).backward()
        with torch.no_grad():
            for weight, move in zip(weights, moves):
                weight.sub_(move, alpha=0.1 / norm)
        nn.utils.clip_grad_norm_(net.parameters(), limit)
        plain.optimizer.step()
    assert ours.total.item() == pytest.approx(plain.total.item(), rel=1e-4)
    assert_equal(ours, plain, 1e-3)
    without = Task(device, "adamw")
    without.by_hand(range(8), limit)
    assert not torch.allclose(weights[0], without.net[0].weight, atol=1e-2)


@on_all_devices
def test_sharpness_draws_alike_for_both_gradients(device):
    """And from step to step otherwise, captured or not."""
    task = Task(device)
    seen = torch.zeros(2, 16, 6, device=device)

    def loss_fn(x, labels):
        noise = torch.randn_like(x)
        seen.copy_(torch.stack([seen[1], noise]))
        return task(nn.functional.dropout(x + noise), labels)

    step = task.captured(loss_fn, sharpness_radius=0.1)
    steps = []
    for number in range(4):
        torch.manual_seed(number // 2)
        step(number, *task.batch(number))
        assert torch.equal(*seen)
        steps.append(seen[0].clone())
    assert step.captured == (device == "cuda")
    assert torch.equal(steps[0], steps[1]) and torch.equal(*steps[2:])
    assert not torch.equal(*steps[1:3])


@on_all_devices
def test_sharpness_of_a_skipped_step_leaves_no_trace(device):
    task = Task(device)
    step = task.captured(sharpness_radius=0.1)
    task.train(step, range(3))
    before, total = task.saved(), task.total.clone()
    x, labels = task.batch(3)
    step(3, x * math.nan, labels)
    assert step.read_skipped() == [3]
    assert torch.equal(task.total, total)
    for one, other in zip(before[0].values(), task.net.state_dict().values()):
        assert torch.equal(one, other)
    step(4, *task.batch(4))
    assert task.total.isfinite() and task.total != total
