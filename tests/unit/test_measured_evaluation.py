"""What an evaluation takes is measured before training."""

import pytest
import speechbrain as sb
import torch

from amsincnet_sb.training.brain import CapturedBrain


class Noting(CapturedBrain):
    """Notes the sizes of the batches that it evaluates."""

    def compute_forward(self, batch, stage):
        assert stage == sb.Stage.TEST and not self.modules.training
        self.sizes.append(len(batch))
        return self.modules["model"](batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions.mean()


@pytest.mark.parametrize("sizes", [[7, 7, 7, 3], [5, 5], [6], []])
def test_every_size_of_batch_is_tried(sizes):
    """And the last one, which tells, is one of a size tried before."""
    brain = Noting(modules={"model": torch.nn.Linear(4, 2)})
    brain.sizes = []
    windows = [torch.ones(size, 4) for size in sizes]
    before = torch.get_rng_state()
    seconds = brain.measure_evaluation(sb.Stage.TEST, windows)
    assert torch.equal(before, torch.get_rng_state())
    assert {*brain.sizes} == {*sizes} and (seconds > 0) == bool(sizes)
    assert brain.sizes[-1:] == sizes[:1]
    assert not sizes or sizes[0] in brain.sizes[:-1]
