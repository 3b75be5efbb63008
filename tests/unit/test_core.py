"""The Brain that may record its step: bookkeeping that needs no GPU."""

import pytest
import speechbrain as sb
import torch

from amsincnet_sb.core import RecordedBrain, Totals
from amsincnet_sb.dataio.chunks import RandomChunks
from amsincnet_sb.dataio.resident import ResidentAudio
from amsincnet_sb.utils.checkpoints import AtomicCheckpointer
from amsincnet_sb.utils.graph_step import TrainingStep


class Toy(RecordedBrain):
    """Tells which of two constant sentences a chunk is from."""

    def compute_forward(self, batch, stage):
        """Linear scores."""
        return self.modules["model"](batch.sig.data)

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy."""
        labels = batch.spk_id_encoded.data.squeeze(1)
        return torch.nn.functional.cross_entropy(predictions, labels)


@pytest.fixture
def chunks():
    audio = ResidentAudio([torch.rand(50), -torch.rand(60)], [0, 1], "ab")
    return RandomChunks(audio, 8, 4, batches_per_epoch=5, seed=3)


def toy(folder, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 2)
    return Toy(
        modules={"model": model},
        opt_class=lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        run_opts={"device": "cpu", "noprogressbar": True, **options},
        checkpointer=AtomicCheckpointer(folder, {"model": model}),
    )


def loader(chunks):
    return sb.dataio.dataloader.make_dataloader(chunks, batch_size=None)


def test_optimizer_keeps_its_settings(tmp_path, chunks):
    brain = toy(tmp_path)
    brain.fit(range(1, 3), loader(chunks))
    assert brain.optimizer.param_groups[0]["fused"] is True


def test_checkpoint_of_a_recorded_run(tmp_path, chunks):
    recorded = toy(tmp_path)
    recorded.fit(range(1, 2), loader(chunks))
    group = recorded.optimizer.param_groups[0]
    group.update(lr=torch.tensor(0.02), capturable=True, fused=False)
    recorded.checkpointer.save_checkpoint()

    brain = toy(tmp_path)
    brain.fit(range(2, 3), loader(chunks))
    group = brain.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.02) and type(group["lr"]) is float
    assert (group["capturable"], group["fused"]) == (False, True)


def test_totals_are_those_of_the_epoch(tmp_path, chunks):
    brain, losses = toy(tmp_path), []
    fit_batch = brain.fit_batch
    brain.fit_batch = lambda batch: (
        losses.append(fit_batch(batch)) or losses[-1]
    )
    brain.fit(range(1, 3), loader(chunks))
    totals = brain.totals.read()
    assert totals["steps"] == 5
    assert totals["loss"] == pytest.approx(float(sum(losses[5:])), rel=1e-6)


def test_totals_survive_a_checkpoint_within_an_epoch(tmp_path):
    totals = Totals(["loss"], "cpu")
    totals.add(loss=2.5)
    totals._save(tmp_path / "totals.ckpt")
    for end_of_epoch, expected in ((False, 2.5), (True, 0.0)):
        again = Totals(["loss"], "cpu")
        again._load(tmp_path / "totals.ckpt", end_of_epoch)
        assert again.read() == {"loss": expected}


def test_step_seed_depends_on_seed_and_step_alone(tmp_path):
    brain = toy(tmp_path)
    draws = {}
    for seed, step in ((1, 0), (1, 1), (2, 0), (1, 0)):
        brain.optimizer_step = step
        brain.seed_step(seed)
        draws.setdefault((seed, step), []).append(torch.rand(3).tolist())
    assert draws[1, 0][0] == draws[1, 0][1]
    assert draws[1, 0][0] != draws[1, 1][0] != draws[2, 0][0]


def test_recorded_loop_equals_the_ordinary_one(tmp_path, chunks, monkeypatch):
    """The same weights, the same sums; on a CPU the step is not a graph."""
    ordinary = toy(tmp_path / "a")
    ordinary.fit(range(1, 3), loader(chunks))
    recorded = toy(tmp_path / "b", max_grad_norm=5.0)
    monkeypatch.setattr(Toy, "_may_record", lambda self: True)
    recorded.fit(range(1, 3), loader(chunks))
    assert isinstance(recorded.training_step, TrainingStep)
    assert recorded.optimizer_step == ordinary.optimizer_step == 10
    assert recorded.totals.read() == pytest.approx(ordinary.totals.read())
    for a, b in zip(
        ordinary.modules.parameters(), recorded.modules.parameters()
    ):
        assert torch.allclose(a, b, atol=1e-6)


def test_loss_that_is_no_number_stops_the_recorded_loop(
    tmp_path, chunks, monkeypatch
):
    monkeypatch.setattr(Toy, "_may_record", lambda self: True)
    monkeypatch.setattr(Toy, "read_interval", 2)
    brain = toy(tmp_path)
    with torch.no_grad():
        brain.modules["model"].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite by step 2"):
        brain.fit(range(1, 2), loader(chunks))


def test_batches_are_drawn_when_looked_at(chunks, monkeypatch):
    drawn, draw = [], chunks.draw
    monkeypatch.setattr(
        chunks, "draw", lambda step: drawn.append(step) or draw(step)
    )
    chunks.set_epoch(2)
    batch = chunks[3]
    assert drawn == []
    wavs = batch.sig.data
    assert drawn == [8] and wavs.shape == (4, 8)
    assert torch.equal(batch.sig.data, wavs) and drawn == [8]
