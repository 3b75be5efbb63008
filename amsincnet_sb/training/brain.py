"""A Brain whose training step can be one replay of a CUDA graph."""

import logging
import time
from functools import partial

import speechbrain as sb
import torch
import torch.distributed as dist

from amsincnet_sb.dataio.batches import DrawnBatch, WaveBatch
from amsincnet_sb.training.captured_step import CapturedStep
from amsincnet_sb.training.checks import check_sharpness, step_changes
from amsincnet_sb.training.distributed import on_main, world_size
from amsincnet_sb.training.guarded_brain import GuardedBrain
from amsincnet_sb.training.optimizer_state import (
    undo_capturable,
    without_effect,
)

__all__ = ["CapturedBrain"]

logger = sb.utils.logger.get_logger(__name__)

# Importing SpeechBrain's train loggers makes one of them, which is not used
# here, complain that it cannot save figures.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in str(record.msg)
)


class CapturedBrain(GuardedBrain):
    """A Brain for models whose kernels take less time than their launches.

    Where the device allows it, the training step (``compute_forward``,
    ``compute_objectives``, gradients, clipping and the optimizer) is compiled
    and captured as a CUDA graph. :meth:`fit_batch` copies the batch into the
    graph's input, or where the GPU has the audio leaves drawing it to the
    graph, and replays it; a batch that a hook has looked into is copied.
    Nothing else of SpeechBrain's loop changes: progress bar, epochs,
    checkpoints by interval and all hooks run as always.

    ``compute_forward`` and ``compute_objectives`` must not read the device in
    training (no ``.item()``); what they count goes to ``totals``. Options that
    cannot be captured turn capturing off, and the log says so once. Several
    processes' averages of gradients are captured, too.

    Arguments
    ---------
    capture_step : bool
        Capture where possible.
    compile_step : bool
        Compile what is captured.
    sharpness_radius : float
        Of sharpness-aware minimisation, see
        :class:`~amsincnet_sb.training.sharpness.Sharpness`; 0 is none. Of
        several processes each moves by the gradient of its own batch. With
        options that change the step (:func:`step_changes`) an InputError is
        raised.
    **kwargs : dict
        See GuardedBrain and speechbrain.core.Brain.
    """

    def __init__(
        self,
        capture_step=True,
        compile_step=True,
        sharpness_radius=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_sharpness(sharpness_radius, partial(getattr, self))
        self.capture_step = capture_step
        self.compile_step = compile_step
        self.sharpness_radius = sharpness_radius
        self.captured_step = self._draw = None

    def on_fit_start(self):
        """Gets called once before training, recovers a checkpoint."""
        super().on_fit_start()
        self.captured_step = None
        self.capturing = self._can_capture()
        # Else SpeechBrain's, which computes one gradient.
        self.own_step = self.capturing or self.sharpness_radius > 0
        if not self.capturing:
            # A checkpoint of a captured run brings its settings with it.
            undo_capturable(self.optimizer)
            for group, settings in zip(
                self.optimizer.param_groups, self._as_made
            ):
                group.update(settings)

    def init_optimizers(self):
        """Gets called by on_fit_start, before a checkpoint is recovered."""
        super().init_optimizers()
        self._as_made = [
            {k: group[k] for k in ("foreach", "fused") if k in group}
            for group in self.optimizer.param_groups
        ]

    def fit_batch(self, batch):
        """One training step, captured or as SpeechBrain does it.

        Returns the loss, or None after a captured step, which nobody waits for.
        """
        if not self.own_step:
            return super().fit_batch(batch)
        self.on_fit_batch_start(batch, True)
        draw = self._drawn_within(batch)
        first = self.captured_step is None or draw != self._draw
        if first:
            self._look_for_skipped()
            self._draw = draw
            self.captured_step = self._make_captured_step()
        self.captured_step(batch.step, *self._tensors(batch))
        if first and self.captured_step.captured:
            self.on_captured()
        self.optimizer_step += 1
        self.on_fit_batch_end(batch, None, None, True)
        return None

    def _drawn_within(self, batch):
        """The function by which the step draws a batch itself, or None.

        A batch that somebody has looked into may have been changed. From the
        first such one on all are handed over, or each change between the two
        would capture the step again.
        """
        handed_over = self.captured_step is not None and self._draw is None
        if handed_over or not isinstance(batch, DrawnBatch):
            return None
        return None if batch.looked_into else batch.draw

    def _tensors(self, batch):
        """What the step is given of a batch: nothing if it draws it itself."""
        if self._draw is not None:
            return []
        tensors = [
            batch.sig.data,
            batch.spk_id_encoded.data.squeeze(1),
            batch.utterance,
        ]
        if self.device_type == "cuda" and not tensors[0].is_cuda:
            # Read from files; copied beside the replay.
            tensors = [tensor.pin_memory() for tensor in tensors]
        return tensors

    def on_captured(self):
        """Gets called when the step has been captured, and done once."""

    def measure_step(self, chunks, seconds):
        """Seconds that a training step takes; changes nothing.

        Gets called before the first step, which is compiled and captured here.

        Arguments
        ---------
        chunks : RandomChunks
            To train on.
        seconds : float
            To measure for, at least a few steps.
        """
        self._chunks = chunks
        state = [*self.modules.buffers(), self.totals.values]
        with without_effect(self.optimizer, state):
            self.modules.train()
            self._time_steps(chunks, 3)  # compilers, caches
            count = 5
            step = self._time_steps(chunks, count) / count
            more = on_main(lambda: int(seconds / step))
            if more > count:
                step = self._time_steps(chunks, more) / more
        self.optimizer_step = self.step = 0
        if self.captured_step is not None:
            self.captured_step.read_skipped()
        return step

    def measure_evaluation(self, stage, windows):
        """Seconds that an evaluation takes; changes nothing.

        Gets called before the first step. The first batch tells, once it and
        the last one, which has a size of its own, have been tried: what is
        compiled for either is compiled here, not when the time is up.
        """
        others = len(windows) - 1
        if others < 0:
            return 0.0
        self.on_stage_start(stage)
        self.modules.eval()
        first, last = windows[0], windows[others]
        for batch in [first, last, first] if others else [first, first]:
            start = time.perf_counter()
            # Not the Brain's own, which a request to stop would end.
            with torch.no_grad():
                sb.Brain.evaluate_batch(self, batch, stage)
            seconds = time.perf_counter() - start
        return seconds * (others + len(last) / len(first))

    def _time_steps(self, chunks, count):
        start = time.perf_counter()
        for number in range(count):
            self.step += 1
            self.fit_batch(chunks[number % len(chunks)])
        if self.device_type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _make_captured_step(self):
        # torch's own within SpeechBrain's, at which the compiler would break
        # the step into pieces.
        autocast = getattr(self.training_ctx, "context", self.training_ctx)

        def loss_fn(wavs, labels, utterance):
            """Loss of one batch, which is added to the totals."""
            batch = WaveBatch(wavs, labels, utterance)
            with autocast:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.totals.add(loss=loss.detach(), steps=1)
            return loss

        return CapturedStep(
            loss_fn,
            self.optimizer,
            max_grad_norm=self.max_grad_norm,
            compile=self.compile_step and self.capturing,
            capture=self.capturing,
            sharpness_radius=self.sharpness_radius,
            apart=self.no_sync,
            state=[*self.modules.buffers(), self.totals.values],
            agreement=self.agreement,
            draw=self._draw,
        )

    def _can_capture(self):
        """Whether the step can be captured; says why not."""
        if self.device_type != "cuda":
            return False
        reasons = {
            "capture_step is False": not self.capture_step,
            "--debug": self.debug,
            "several processes without NCCL": world_size() > 1
            and dist.get_backend() != "nccl",
            **step_changes(partial(getattr, self)),
        }
        for reason, holds in reasons.items():
            if holds:
                logger.info(
                    "The training step is not captured as a CUDA graph (%s): "
                    "steps take longer.",
                    reason,
                )
                return False
        return True

    def update_average(self, loss, avg_loss):
        """Of captured steps, a new one every ``read_interval`` steps."""
        if loss is not None:
            return super().update_average(loss, avg_loss)
        if self.step % self.read_interval:
            return avg_loss
        self._look_for_skipped()
        totals = self.totals.read()
        return totals["loss"] / max(1.0, totals["steps"])

    def epoch_totals(self):
        """The sums over the epoch that ends, for ``on_stage_end``."""
        self._look_for_skipped()
        return super().epoch_totals()

    @property
    def fallback(self):
        """What of the step failed and runs more plainly, as a dict for a log.

        Empty where the step runs as it was meant to.
        """
        sentence = self.captured_step and self.captured_step.fallback
        return {"fallback": sentence} if sentence else {}

    def close(self):
        """Release the graph, then leave the group of processes."""
        if self.captured_step is not None:
            self.captured_step.release()
        super().close()

    def _look_for_skipped(self):
        """Learn from the device which captured steps were skipped."""
        if self.captured_step is not None:
            skipped = self.captured_step.read_skipped()
            if skipped:
                self._note_skipped(skipped)

    def _save_intra_epoch_ckpt(self):
        self._look_for_skipped()
        super()._save_intra_epoch_ckpt()
