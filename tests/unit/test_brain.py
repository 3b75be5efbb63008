"""The Brain that captures its step: bookkeeping that needs no GPU."""

import copy
import re
from functools import partial

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedData

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import DrawnBatch, RandomChunks
from amsincnet_sb.training.brain import CapturedBrain
from amsincnet_sb.training.captured_step import CapturedStep
from amsincnet_sb.training.checkpoints import AtomicCheckpointer
from amsincnet_sb.utils.errors import InputError

FORMS = pytest.mark.parametrize("captured", [False, True])


class Toy(CapturedBrain):
    """Tells which of two utterances a chunk is from."""

    def compute_forward(self, batch, stage):
        return self.modules["model"](batch.sig.data)

    def compute_objectives(self, predictions, batch, stage):
        labels = batch.spk_id_encoded.data.squeeze(1)
        return torch.nn.functional.cross_entropy(predictions, labels)


@pytest.fixture
def chunks():
    audio = ResidentAudio([torch.rand(50), -torch.rand(60)], [0, 1], "ab")
    return RandomChunks(audio, 8, 4, batches_per_epoch=5, seed=3)


def toy(folder, kind=Toy, model=None, **options):
    torch.manual_seed(0)
    model = model or torch.nn.Linear(8, 2)
    return kind(
        modules={"model": model},
        opt_class=lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        run_opts={"device": "cpu", "noprogressbar": True, **options},
        checkpointer=AtomicCheckpointer(folder, {"model": model}),
    )


def loader(chunks):
    return sb.dataio.dataloader.make_dataloader(chunks, batch_size=None)


def test_checkpoint_of_a_captured_run(tmp_path, chunks):
    captured = toy(tmp_path)
    captured.fit(range(1, 2), loader(chunks))
    group = captured.optimizer.param_groups[0]
    assert group["fused"] is True  # as it was made
    group.update(lr=torch.tensor(0.02), capturable=True, fused=False)
    captured.checkpointer.save_checkpoint()

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


def test_captured_loop_equals_the_ordinary_one(tmp_path, chunks, monkeypatch):
    """The same weights, the same sums; on a CPU the step is not a graph."""
    ordinary = toy(tmp_path / "a")
    ordinary.fit(range(1, 3), loader(chunks))
    captured = toy(tmp_path / "b", max_grad_norm=5.0)
    monkeypatch.setattr(Toy, "_can_capture", lambda self: True)
    captured.fit(range(1, 3), loader(chunks))
    assert isinstance(captured.captured_step, CapturedStep)
    assert captured.optimizer_step == ordinary.optimizer_step == 10
    assert captured.totals.read() == pytest.approx(ordinary.totals.read())
    for a, b in zip(
        ordinary.modules.parameters(), captured.modules.parameters()
    ):
        assert torch.allclose(a, b, atol=1e-6)


@FORMS
def test_gradients_are_clipped_together(
    tmp_path, chunks, monkeypatch, captured
):
    """SpeechBrain clips those of the optimizer's first group alone."""
    monkeypatch.setattr(Toy, "_can_capture", lambda self: captured)
    brain = toy(tmp_path, max_grad_norm=0.01)
    brain.opt_class = lambda parameters: torch.optim.SGD(
        [{"params": [parameter]} for parameter in parameters], lr=1.0
    )
    before = [p.detach().clone() for p in brain.modules.parameters()]
    chunks.batches_per_epoch = 1
    brain.fit(range(1, 2), loader(chunks))
    moves = [p - b for p, b in zip(brain.modules.parameters(), before)]
    assert all(move.any() for move in moves)
    length = torch.cat([move.flatten() for move in moves]).norm()
    assert length.item() == pytest.approx(0.01, rel=1e-3)


def test_tells_once_that_the_step_is_captured(tmp_path, chunks, monkeypatch):
    """Whatever is to be compiled beside the training is, from there on."""
    told = []
    monkeypatch.setattr(Toy, "_can_capture", lambda self: True)
    monkeypatch.setattr(Toy, "on_captured", lambda self: told.append(self.step))
    for captured in (False, True):  # on a CPU no step is a graph
        monkeypatch.setattr(CapturedStep, "captured", captured, raising=False)
        monkeypatch.setattr(CapturedStep, "__setattr__", keep_captured)
        toy(tmp_path / str(captured)).fit(range(1, 3), loader(chunks))
        assert told == ([1] if captured else [])


def keep_captured(step, name, value):
    """Set all attributes of a step but ``captured``."""
    if name != "captured":
        object.__setattr__(step, name, value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_one_program(tmp_path, chunks, monkeypatch, precision):
    """Broken into pieces it takes longer to compile, and each step, too."""
    monkeypatch.setattr(Toy, "_can_capture", lambda self: True)
    brain = toy(tmp_path, precision=precision)
    brain.fit(range(1, 2), loader(chunks))
    batch = chunks.batch(0)
    labels = batch.spk_id_encoded.data.squeeze(1)
    tensors = batch.sig.data, labels, batch.utterance
    loss_fn = brain.captured_step._loss_fn
    whole = torch.compile(loss_fn, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(*tensors), loss_fn(*tensors))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [True, False])
def test_the_step_draws_where_the_gpu_has_the_audio(tmp_path, chunks, compiled):
    """And trains on the same as one that is given its batches."""
    there = copy.deepcopy(chunks.audio).to("cuda")
    drawn = RandomChunks(there, 8, 4, batches_per_epoch=5, seed=3)
    for step in (4, 0):  # looked into, as a step that is not captured does
        ours, plain = drawn.batch(step), chunks.batch(step)
        assert torch.equal(ours.sig.data.cpu(), plain.sig.data)
        assert torch.equal(ours.utterance.cpu(), plain.utterance)
    brains = []
    for name, source in (("drawn", drawn), ("given", chunks)):
        kind = partial(Toy, compile_step=compiled)
        brains.append(toy(tmp_path / name, kind, device="cuda"))
        brains[-1].fit(range(1, 4), loader(source))
        assert brains[-1].captured_step.captured
    assert brains[0].captured_step._inputs == []
    assert len(brains[1].captured_step._inputs) == 3
    for a, b in zip(*(b.modules.parameters() for b in brains)):
        torch.testing.assert_close(a, b)
    # Then from elsewhere: another step, and not the batches of the first.
    brains[0].fit_batch(chunks.batch(15))
    brains[1].fit_batch(chunks.batch(15))
    for a, b in zip(*(b.modules.parameters() for b in brains)):
        torch.testing.assert_close(a, b)


def state(brain):
    """Everything that a step changes."""
    tensors = [*brain.modules.state_dict().values(), brain.totals.values]
    for values in brain.optimizer.state.values():
        tensors += [values[name] for name in sorted(values)]
    return [tensor.clone() for tensor in tensors]


class Normalized(Toy):
    """With BatchNorm, and something wrong in some steps."""

    wrong = {}

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        # Of either form of the step.
        what = self.wrong.get(self.optimizer_step)
        if what == "loss":
            loss = loss / 0
        if what == "gradient":
            self.modules["model"][0].weight.register_hook(
                lambda grad: grad * torch.tensor(float("nan"))
            )
            loss = loss + 0.0
        return loss


@pytest.fixture
def normalized(tmp_path, monkeypatch):
    """Makes one that keeps its state after each step in ``states``."""

    def make(captured, wrong, **options):
        monkeypatch.setattr(Toy, "_can_capture", lambda self: captured)
        monkeypatch.setattr(Toy, "read_interval", 1)
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 4),
            torch.nn.BatchNorm1d(4),
            torch.nn.Linear(4, 2),
        )
        brain = toy(tmp_path, Normalized, model, **options)
        brain.wrong = wrong
        brain.states = []
        fit_batch = brain.fit_batch

        def watched(batch):
            loss = fit_batch(batch)
            for parameter in model.parameters():
                parameter._backward_hooks = None
            brain.states.append(state(brain))
            return loss

        brain.fit_batch = watched
        return brain

    return make


@FORMS
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(
    normalized, chunks, caplog, captured, what
):
    brain = normalized(captured, {3: what})
    brain.fit(range(1, 2), loader(chunks))
    before, after, later = brain.states[2:5]
    skipped = list(brain.totals.sums).index("skipped")
    for a, b in zip(before, after):
        if len(a.shape) == 1 and len(a) == len(brain.totals.sums):
            a, b = (torch.cat([x[:skipped], x[skipped + 1 :]]) for x in (a, b))
        assert torch.equal(a, b)
    assert not torch.equal(after[0], later[0])
    assert all(x.isfinite().all() for x in later)
    totals = brain.totals.read()
    assert (totals["steps"], totals["skipped"]) == (4, 1)
    assert brain.optimizer_step == 5
    assert "Step 3 was skipped: its loss or a gradient" in caplog.text


@FORMS
def test_the_file_and_the_chunk_are_named(normalized, caplog, captured):
    bad = torch.rand(50)
    bad[20] = float("inf")
    audio = ResidentAudio(
        [torch.rand(60), bad], [0, 1], "ab", ["good.wav", "bad.wav"]
    )
    chunks = RandomChunks(audio, 8, 4, batches_per_epoch=20, seed=3)
    hit = [
        step for step in range(20) if not chunks.draw(step)[0].isfinite().all()
    ]
    assert 0 < len(hit) < 20
    brain = normalized(captured, {}, nonfinite_patience=20)
    brain.fit(range(1, 2), loader(chunks))
    named = [
        (record.args[0], record.args[1])
        for record in caplog.records
        if "was skipped" in record.msg
    ]
    assert [step for step, _ in named] == hit
    for step, origin in named:
        file, first, last = re.fullmatch(
            r"the audio of (\S+), samples (\d+) to (\d+)( \(and .*\))?", origin
        ).groups()[:3]
        assert file == "bad.wav" and int(first) <= 20 < int(last)
    assert brain.totals.read()["skipped"] == len(hit)
    assert all(p.isfinite().all() for p in brain.modules.parameters())


def test_a_scaler_that_finds_no_scale_ends_the_run(normalized, chunks):
    """It left out every step, and the training ended as if it had been one."""
    chunks.batches_per_epoch = 30
    brain = normalized(False, dict.fromkeys(range(30), "gradient"))
    brain.scaler = torch.GradScaler("cpu", init_scale=2.0**10)
    with pytest.raises(InputError, match=r"4 steps .* skipped .*, 13, by"):
        brain.fit(range(1, 2), loader(chunks))
    assert brain.scaler.get_scale() == 1


@FORMS
def test_too_many_end_the_run(normalized, chunks, captured):
    wrong = dict.fromkeys([0, 2, 3], "loss")
    brain = normalized(
        captured, wrong, nonfinite_patience=2, ckpt_interval_steps=1
    )
    with pytest.raises(InputError, match=r"3 steps .* skipped .* checkpoint"):
        brain.fit(range(1, 3), loader(chunks))
    assert brain.optimizer_step == 4
    (checkpoint,) = brain.checkpointer.list_checkpoints()
    brain.modules["model"].load_state_dict(
        torch.load(checkpoint.paramfiles["model"], weights_only=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(state(brain)[:9], brain.states[1])
    )


@FORMS
def test_an_epoch_without_a_single_good_step(normalized, chunks, captured):
    wrong = dict.fromkeys(range(5), "loss")
    brain = normalized(captured, wrong, nonfinite_patience=9)
    brain.fit(range(1, 2), loader(chunks))
    with pytest.raises(InputError, match="Every step of the epoch"):
        brain.epoch_totals()


def test_accumulated_gradients_are_skipped_together(normalized, chunks):
    brain = normalized(False, {1: "loss"}, grad_accumulation_factor=2)
    brain.fit(range(1, 3), loader(chunks))
    # Updates at steps 2 and 4 of an epoch of five.
    assert brain.totals.read()["skipped"] == 0
    for parameter in brain.modules.parameters():
        assert parameter.isfinite().all()


@FORMS
@pytest.mark.parametrize("drawn", [False, True])
def test_the_batch_that_is_handed_over_is_trained_on(
    tmp_path, chunks, monkeypatch, captured, drawn
):
    """Not one that the step would draw by itself."""
    monkeypatch.setattr(Toy, "_can_capture", lambda self: captured)
    if drawn:  # as where a GPU has the audio
        monkeypatch.setattr(
            chunks, "batch", lambda step: DrawnBatch(chunks.draw, step)
        )
    weights, made = [], []
    make = Toy._make_captured_step
    monkeypatch.setattr(
        Toy, "_make_captured_step", lambda self: made.append(1) or make(self)
    )

    def invert(batch):
        batch.sig.data.neg_()

    def replace(batch):
        batch.sig = PaddedData(-chunks.draw(batch.step)[0], torch.ones(4))

    for nth, change in enumerate((None, invert, replace)):
        brain = toy(tmp_path / str(nth))
        fit_batch = brain.fit_batch

        def changing(batch, fit_batch=fit_batch, change=change):
            if change and batch.step in (1, 3):
                change(batch)
            return fit_batch(batch)

        brain.fit_batch = changing
        brain.fit(range(1, 2), loader(chunks))
        weights.append(next(brain.modules.parameters()).detach().clone())
    assert not torch.equal(*weights[:2])
    assert torch.equal(*weights[1:])
    # Not one more for each batch that is changed.
    assert len(made) == captured * (3 + 2 * drawn)
