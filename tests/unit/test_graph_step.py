"""The recorded training step against a loop written by hand."""

import copy
import io
import logging
import math
from functools import partial

import pytest
import torch
from torch import nn

from amsincnet_sb.nnet.losses import AMSoftmax
from amsincnet_sb.nnet.optimizers import RMSprop
from amsincnet_sb.training.captured_step import (
    TrainingStep,
    _compiled,
    _make_state,
    unrecord_optimizer,
    without_effect,
)

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.95),
    "our rmsprop": lambda p: RMSprop(p, lr=1e-3, alpha=0.95),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


class Task:
    """A small classifier whose examples are a function of the step."""

    def __init__(self, device):
        torch.manual_seed(0)
        self.net = nn.Sequential(
            # A bias before the normalisation would have a gradient of noise.
            nn.Linear(6, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ).to(device)
        self.loss = AMSoftmax(0.1, scale=5.0).to(device)
        self.grid = torch.arange(96.0, device=device).view(16, 6)

    def __call__(self, step):
        x = torch.sin(self.grid * (step + 1))
        targets = (self.grid[:, 0].long() + step) % 3
        scores = self.net(x)
        wrong = (scores.argmax(-1) != targets).float().mean()
        return self.loss(scores, targets), wrong


def by_hand(task, optimizer, steps, max_grad_norm=math.inf):
    """Mean loss of some steps."""
    total = 0.0
    for step in steps:
        optimizer.zero_grad()
        number = torch.tensor(step, device=task.grid.device)
        loss = task(number)[0]
        loss.backward()
        nn.utils.clip_grad_norm_(task.net.parameters(), max_grad_norm)
        optimizer.step()
        total += loss.item()
    return total / len(steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("limit", [math.inf, 0.1])
def test_equals_a_loop_by_hand(device, name, limit):
    """Parameters, buffers, means and step number."""
    tasks = Task(device), Task(device)
    optimizers = [OPTIMIZERS[name](t.net.parameters()) for t in tasks]
    train = TrainingStep(
        tasks[0],
        optimizers[0],
        ("loss", "error"),
        limit,
        step=5,
        state=list(tasks[0].net.buffers()),
    )
    for _ in range(8):
        train()
    mean = by_hand(tasks[1], optimizers[1], range(5, 13), limit)
    assert train.recorded == (device == "cuda")
    read = train.read()
    assert read["loss"] == pytest.approx(mean, rel=1e-4)
    assert 0 <= read["error"] <= 1
    assert (read["steps"], read["nonfinite"]) == (8, 0)
    assert train.step.item() == 13
    assert train.read()["steps"] == 0
    for a, b in zip(
        tasks[0].net.state_dict().values(), tasks[1].net.state_dict().values()
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_compiled_backward_pass_sees_its_own_step():
    """What it computes again from the number is what forward computed."""
    tasks = Task("cpu"), Task("cpu")
    optimizers = [OPTIMIZERS["sgd"](t.net.parameters()) for t in tasks]
    train = TrainingStep(lambda step: tasks[0](step)[0], optimizers[0])
    train._forward = torch.compile(
        train._forward, backend="aot_eager_decomp_partition"
    )
    for _ in range(4):
        train()
    mean = by_hand(tasks[1], optimizers[1], range(4))
    assert train.read()["loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_rate_and_margin_change_between_steps(device):
    """As numbers, as schedulers set them, and seen by the recorded step."""
    tasks = Task(device), Task(device)
    optimizers = [OPTIMIZERS["sgd"](t.net.parameters()) for t in tasks]
    train = TrainingStep(lambda step: tasks[0](step)[0], optimizers[0])
    for _ in range(5):
        train()
    train.read()
    for group in optimizers[0].param_groups:
        group["lr"] = 0.0
    tasks[0].loss.set_margin(0.9)
    before = copy.deepcopy(list(tasks[0].net.parameters()))
    by_hand(tasks[1], optimizers[1], range(5))
    tasks[1].loss.set_margin(0.9)
    with torch.no_grad():
        want = tasks[1](torch.tensor(5, device=device))[0].item()
    train()
    assert train.read()["loss"] == pytest.approx(want, rel=1e-4)
    for a, b in zip(before, tasks[0].net.parameters()):
        assert torch.equal(a, b)


def test_counts_losses_that_are_not_finite():
    """Without stopping."""
    layer = nn.Linear(2, 1)
    train = TrainingStep(
        lambda step: layer(torch.ones(2)).sum() / (step != 2),
        torch.optim.SGD(layer.parameters(), lr=0.0),
    )
    for _ in range(3):
        train()
    assert train.read()["nonfinite"] == 1


@pytest.mark.parametrize("device", DEVICES)
def test_resumes_bit_for_bit(device):
    """State saved between steps and loaded into a new step."""
    task = Task(device)
    optimizer = OPTIMIZERS["adamw"](task.net.parameters())
    train = TrainingStep(
        lambda step: task(step)[0], optimizer, state=list(task.net.buffers())
    )
    for _ in range(6):
        train()
    saved = copy.deepcopy((task.net.state_dict(), optimizer.state_dict()))
    for _ in range(4):
        train()
    want = copy.deepcopy(task.net.state_dict())

    # into the same, recorded, step
    task.net.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))
    train.seek(6)
    for _ in range(4):
        train()
    assert train.recorded == (device == "cuda")
    for a, b in zip(task.net.state_dict().values(), want.values()):
        assert torch.equal(a, b)

    # and into a new one
    other = Task(device)
    optimizer = OPTIMIZERS["adamw"](other.net.parameters())
    other.net.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))
    train = TrainingStep(
        lambda step: other(step)[0],
        optimizer,
        step=6,
        state=list(other.net.buffers()),
    )
    for _ in range(4):
        train()
    for a, b in zip(other.net.state_dict().values(), want.values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_checkpoint_of_a_recorded_step_goes_on_as_an_ordinary_one(name):
    """With the same numbers as without the detour."""
    results = []
    for recorded in (False, True):
        task = Task("cpu")
        optimizer = OPTIMIZERS[name](task.net.parameters())
        by_hand(task, optimizer, range(3))
        saved = copy.deepcopy(optimizer.state_dict())
        if recorded:
            for group in saved["param_groups"]:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
                group["foreach"] = True
                if "capturable" in group:
                    group["capturable"] = True
        optimizer = OPTIMIZERS[name](task.net.parameters())
        optimizer.load_state_dict(saved)
        if recorded:
            unrecord_optimizer(optimizer)
        by_hand(task, optimizer, range(3, 6))
        results.append(task.net.state_dict())
    for a, b in zip(results[0].values(), results[1].values()):
        assert torch.equal(a, b)


@on_gpu
def test_says_why_it_does_not_record(caplog):
    """A loss that waits for the host is trained, unrecorded."""
    task = Task("cuda")

    def waits(step):
        noise = torch.rand((), device="cuda")
        return task(step)[0] * (1.0 if step.item() >= 0 else 2.0) + 0 * noise

    optimizer = OPTIMIZERS["sgd"](task.net.parameters())
    train = TrainingStep(waits, optimizer, compile=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            train()
    assert not train.recorded
    assert train.read()["steps"] == 6
    assert sum("without a CUDA graph" in m for m in caplog.messages) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("made", [False, True])
def test_a_trial_has_no_effect(device, name, made):
    """Whether the optimizer has a state already or not."""
    tasks = Task(device), Task(device)
    optimizers = [OPTIMIZERS[name](t.net.parameters()) for t in tasks]
    if made:
        for task, optimizer in zip(tasks, optimizers):
            by_hand(task, optimizer, range(2))
    state = tasks[0].net.state_dict()
    before = copy.deepcopy(state)
    torch.manual_seed(5)
    with without_effect(optimizers[0], tasks[0].net.buffers()):
        places = [p.data_ptr() for p in tasks[0].net.parameters()]
        by_hand(tasks[0], optimizers[0], range(7, 10))
        torch.rand(3, device=device)
        changed = copy.deepcopy(state)
    drawn = torch.rand(1, device=device)
    torch.manual_seed(5)
    assert drawn == torch.rand(1, device=device)
    assert not torch.equal(changed["0.weight"], before["0.weight"])
    for key, value in before.items():
        assert torch.equal(state[key], value)
    assert places == [p.data_ptr() for p in tasks[0].net.parameters()]
    # From there on as if it had not been.
    for task, optimizer in zip(tasks, optimizers):
        by_hand(task, optimizer, range(3, 6))
    for a, b in zip(*(t.net.state_dict().values() for t in tasks)):
        assert torch.equal(a, b)
    for a, b in zip(*(o.state.values() for o in optimizers)):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_on_a_condition(device, name):
    """That needs no answer from the device."""
    tasks = Task(device), Task(device)
    optimizers = [OPTIMIZERS[name](t.net.parameters()) for t in tasks]
    for task, optimizer in zip(tasks, optimizers):
        by_hand(task, optimizer, range(2))
    train = TrainingStep(lambda step: tasks[0](step)[0], optimizers[0])
    no, yes = (torch.tensor(x, device=device) for x in (False, True))
    for step in range(2, 5):
        for task, optimizer in zip(tasks, optimizers):
            optimizer.zero_grad()
            number = torch.tensor(step, device=device)
            task(number)[0].backward()
        before = [t.clone() for t in train._updated()]
        gradients = [p.grad.clone() for p in tasks[0].net.parameters()]
        for parameter in tasks[0].net.parameters():
            parameter.grad.fill_(float("nan"))
        train._guarded_update(no, train._updated())
        for a, b in zip(before, train._updated(), strict=True):
            assert torch.equal(a, b)
        for parameter, gradient in zip(tasks[0].net.parameters(), gradients):
            parameter.grad.copy_(gradient)
        train._guarded_update(yes, train._updated())
        optimizers[1].step()
    for a, b in zip(*(t.net.state_dict().values() for t in tasks)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("limit", [math.inf, 0.1])
def test_a_skipped_step_changes_nothing(device, limit):
    """Neither weights, nor statistics, nor sums; its number is kept."""
    tasks = Task(device), Task(device)
    optimizers = [OPTIMIZERS["adamw"](t.net.parameters()) for t in tasks]

    def loss(step):
        wrong = (step == 4) | (step == 6)
        return tasks[0](step)[0] * torch.where(wrong, float("inf"), 1.0)

    train = TrainingStep(
        loss,
        optimizers[0],
        max_grad_norm=limit,
        state=list(tasks[0].net.buffers()),
    )
    for _ in range(8):
        train()
    mean = by_hand(tasks[1], optimizers[1], [0, 1, 2, 3, 5, 7], limit)
    read = train.read()
    assert read["loss"] == pytest.approx(mean, rel=1e-4)
    assert (read["steps"], read["nonfinite"]) == (6, 2)
    assert train.read_skipped() == [4, 6] and train.read_skipped() == []
    for a, b in zip(*(t.net.state_dict().values() for t in tasks)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_latest_skipped_steps_are_remembered():
    layer = nn.Linear(2, 1)
    train = TrainingStep(
        lambda step: layer(torch.ones(2)).sum() / 0 * step,
        torch.optim.SGD(layer.parameters(), lr=0.1),
    )
    for _ in range(70):
        train()
    assert train.read_skipped() == list(range(6, 70))
    train()
    assert train.read_skipped() == [70]


@on_gpu
def test_a_run_that_goes_on_equals_one_that_starts():
    """The first step is a replay in both."""
    task = Task("cuda")
    optimizer = OPTIMIZERS["adamw"](task.net.parameters())
    train = TrainingStep(
        lambda step: task(step)[0], optimizer, state=list(task.net.buffers())
    )
    states = []
    for _ in range(4):
        train()
        states.append(
            copy.deepcopy((task.net.state_dict(), optimizer.state_dict()))
        )
    for done in range(1, 4):
        other = Task("cuda")
        optimizer = OPTIMIZERS["adamw"](other.net.parameters())
        other.net.load_state_dict(states[done - 1][0])
        optimizer.load_state_dict(copy.deepcopy(states[done - 1][1]))
        train = TrainingStep(
            lambda step: other(step)[0],
            optimizer,
            step=done,
            state=list(other.net.buffers()),
        )
        for _ in range(done, 4):
            train()
        for key, value in states[-1][0].items():
            assert torch.equal(other.net.state_dict()[key], value)


@pytest.mark.parametrize("device", DEVICES)
def test_however_many_in_a_process_all_are_compiled(device, monkeypatch):
    """The compiler gives up on code that it has compiled several times."""
    programs = []

    def counted(graph, _):
        programs.append(graph)
        return graph.forward

    compiler = partial(torch.compile, backend=counted)
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, dynamic, options: compiler(f, fullgraph=True),
    )
    kept = []
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(4):
            task = Task(device)
            optimizer = OPTIMIZERS["adamw"](task.net.parameters())
            step = TrainingStep(task, optimizer, ("loss", "wrong"), graph=False)
            if device == "cpu":  # nothing is compiled there
                step._forward = _compiled(step._plain_forward)
            for _ in range(2):
                step()
            kept.append(step)
    assert len(programs) == (8 if device == "cuda" else 4)


@pytest.mark.parametrize("name", ["adamw", "our rmsprop"])
def test_the_same_program_for_a_state_that_was_loaded(name):
    """Another one would round otherwise, and a resumed run end elsewhere."""
    programs, saved = [], None

    def kept(graph, _):
        programs.append(graph.code)
        return graph.forward

    for _ in range(3):
        task = Task("cpu")
        optimizer = OPTIMIZERS[name](task.net.parameters())
        task(torch.tensor(0))[0].backward()
        if saved is None:
            _make_state(optimizer, [*task.net.parameters()])
            task(torch.tensor(0))[0].backward()
        else:
            saved.seek(0)
            optimizer.load_state_dict(torch.load(saved, weights_only=True))
        step = TrainingStep(task, optimizer, ("loss", "wrong"))
        step._compile = True  # as on a GPU
        step._prepare_optimizer()
        step._refresh_rates()
        update = torch.compile(
            lambda *arguments, step=step: step._guarded_update(*arguments),
            backend=kept,
        )
        update(torch.tensor(True), step._updated())
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
    assert len(programs) == 3 and len(set(programs)) == 1
