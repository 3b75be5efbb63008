"""The newest checkpoint is the one after the most steps, and it is finite."""

import time

import pytest
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from amsincnet_sb.training.checkpoints import AtomicCheckpointer
from amsincnet_sb.utils.errors import InputError


@register_checkpoint_hooks
class Steps:
    """A Brain's state, as SpeechBrain saves it."""

    optimizer_step = 0

    @mark_as_saver
    def _save(self, path):
        with open(path, "w") as file:
            file.write(f"optimizer_step: {self.optimizer_step}\n")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.optimizer_step = int(open(path).read().split()[1])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Saves after so many steps at a time of the clock."""
    brain = Steps()
    run = AtomicCheckpointer(tmp_path, {"brain": brain})

    def save(step, clock, save=run.save_checkpoint, **options):
        brain.optimizer_step = step
        monkeypatch.setattr(time, "time", lambda: float(clock))
        save(name=f"{step}-{clock}", **options)

    run.save, run.brain = save, brain
    return run


def names(run):
    return sorted(path.path.name[5:] for path in run.list_checkpoints())


@pytest.mark.parametrize("clocks", [(1, 2, 3), (3, 2, 1), (2, 2, 2), (2, 3, 1)])
def test_whatever_the_clock_says(run, clocks):
    for step, clock in zip((5, 10, 100), clocks):
        run.save(step, clock, end_of_epoch=False)
    assert run.recover_if_possible() and run.brain.optimizer_step == 100
    order = [c.path.name for c in run.find_checkpoints()]
    assert [name[5:].split("-")[0] for name in order] == ["100", "10", "5"]
    run.save(110, 0, run.save_and_keep_only, num_to_keep=2)
    assert names(run) == sorted(["110-0", f"100-{clocks[2]}"])


def test_of_one_step_the_end_of_its_epoch(run):
    run.save(5, 9, end_of_epoch=False)
    run.save(5, 3)
    assert run.find_checkpoint().path.name == "CKPT+5-3"
    run.save(6, 1, end_of_epoch=False)
    assert run.find_checkpoint().path.name == "CKPT+6-1"


def test_of_equal_errors_the_newest(run):
    for step, clock in ((5, 9), (10, 1)):
        run.save(step, clock, meta={"error": 0.0})
    run.save(20, 20, meta={"error": 1.0})
    assert run.find_checkpoint(min_key="error").path.name == "CKPT+10-1"
    assert run.find_checkpoint(max_key="error").path.name == "CKPT+20-20"


def test_a_damaged_newest_does_not_count_when_others_are_deleted(run):
    run.save(5, 1)
    run.save(10, 2)
    (run.checkpoints_dir / "CKPT+10-2" / "CHECKSUMS.json").write_text("{")
    assert run.recover_if_possible() and run.brain.optimizer_step == 5
    run.save(6, 3, run.save_and_keep_only)
    assert "6-3" in names(run)
    assert run.recover_if_possible() and run.brain.optimizer_step == 6


def spoil_weight(layer, optimizer, value):
    layer.weight.data[0, 1] = value


def spoil_buffer(layer, optimizer, value):
    layer.register_buffer("mean", torch.tensor([0.0, value]))


def spoil_optimizer(layer, optimizer, value):
    optimizer.state[layer.weight]["exp_avg_sq"][1, 1] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "spoil, what",
    [
        (spoil_weight, "layer"),
        (spoil_buffer, "layer"),
        (spoil_optimizer, "optimizer"),
    ],
)
def test_a_good_one_is_not_replaced_by_nan(tmp_path, spoil, what, value):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    run = AtomicCheckpointer(
        tmp_path, {"layer": layer, "optimizer": optimizer, "steps": Steps()}
    )
    run.save_and_keep_only(name="good")
    spoil(layer, optimizer, value)
    with pytest.raises(InputError, match=f"{what} has values that are NaN"):
        run.save_and_keep_only(name="bad")
    assert [path.name for path in tmp_path.iterdir()] == ["CKPT+good"]
