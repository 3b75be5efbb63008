"""What an evaluation takes is measured before training."""

import time

import pytest
import speechbrain as sb
import torch

from amsincnet_sb.training.brain import CapturedBrain


class Clocked(CapturedBrain):
    """A window takes a second, and a new size of batch a minute more."""

    def compute_forward(self, batch, stage):
        assert stage == sb.Stage.TEST and not self.modules.training
        self.clock += len(batch) + 60 * (len(batch) not in self.sizes)
        self.sizes.add(len(batch))
        return self.modules["model"](batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions.mean()


@pytest.mark.parametrize("sizes", [[7, 7, 7, 3], [5, 5], [6], []])
def test_every_size_of_batch_is_tried_before(sizes, monkeypatch):
    brain = Clocked(modules={"model": torch.nn.Linear(4, 2)})
    brain.sizes, brain.clock = set(), 0
    monkeypatch.setattr(time, "perf_counter", lambda: brain.clock)
    windows = [torch.ones(size, 4) for size in sizes]
    random = torch.get_rng_state()
    took = brain.measure_evaluation(sb.Stage.TEST, windows)
    assert torch.equal(random, torch.get_rng_state())
    assert took == pytest.approx(sum(sizes)) and brain.sizes == {*sizes}
