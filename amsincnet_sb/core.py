"""A Brain whose training step can be one replay of a CUDA graph."""

import logging
import math

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from amsincnet_sb.dataio.batch import WaveBatch
from amsincnet_sb.utils.graph_step import TrainingStep, unrecord_optimizer

__all__ = ["RecordedBrain", "Totals"]

logger = sb.utils.logger.get_logger(__name__)

# Importing SpeechBrain's train loggers makes one of them, which is not used
# here, complain that it cannot save figures.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in str(record.msg)
)


@register_checkpoint_hooks
class Totals:
    """Sums over an epoch, kept on the device and in checkpoints.

    Arguments
    ---------
    names : sequence of str
        What is summed.
    device : str
        Where.

    Example
    -------
    >>> totals = Totals(["loss", "examples"], "cpu")
    >>> totals.add(loss=torch.tensor(3.0), examples=2)
    >>> totals.add(loss=torch.tensor(1.0), examples=2)
    >>> totals.read()
    {'loss': 4.0, 'examples': 4.0}
    """

    def __init__(self, names, device):
        self.sums = {
            name: torch.zeros((), dtype=torch.float64, device=device)
            for name in names
        }

    def add(self, **values):
        """Add to the sums, in place, without waiting for the device.

        Arguments
        ---------
        **values
            A number or scalar tensor for each name.
        """
        for name, value in values.items():
            self.sums[name].add_(value)

    def read(self):
        """The sums, as numbers; waits for the device.

        Returns
        -------
        dict
        """
        return {name: value.item() for name, value in self.sums.items()}

    def clear(self):
        """Back to zero, in place."""
        for value in self.sums.values():
            value.zero_()

    @mark_as_saver
    def _save(self, path):
        torch.save({k: v.cpu() for k, v in self.sums.items()}, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        saved = torch.load(path, weights_only=True)
        for name, value in self.sums.items():
            value.copy_(saved[name])
            if end_of_epoch:
                value.zero_()


class RecordedBrain(sb.Brain):
    """A Brain for models so small that launching their kernels takes longest.

    Where the device allows it, the whole training step (drawing the chunks,
    ``compute_forward``, ``compute_objectives``, gradients, clipping and the
    optimizer) is compiled and recorded as a CUDA graph, and
    :meth:`fit_batch` replays it. Nothing else of SpeechBrain's loop changes:
    progress bar, epochs, checkpoints by interval and all hooks run as
    always. Training batches must come from
    :class:`amsincnet_sb.dataio.chunks.RandomChunks`.

    What ``compute_forward`` and ``compute_objectives`` do in training must
    not read the device (no ``.item()``); sums go to :attr:`totals`.
    Options that cannot be recorded turn recording off, and the log says so
    once.

    Arguments
    ---------
    record_step : bool
        Record where possible.
    **kwargs : dict
        See speechbrain.core.Brain.

    Attributes
    ----------
    totals : Totals
        ``loss`` (summed over steps), ``steps`` and what
        :attr:`totals_names` adds.
    """

    #: Further sums of an epoch.
    totals_names = ()
    #: Steps between two readings of the device for the progress bar.
    read_interval = 50

    def __init__(self, record_step=True, **kwargs):
        super().__init__(**kwargs)
        self.record_step = record_step

    def on_fit_start(self):
        """Gets called once before training, recovers a checkpoint."""
        self.totals = Totals(["loss", "steps", *self.totals_names], self.device)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable(
                "totals", self.totals, optional_load=True
            )
        super().on_fit_start()
        self.training_step = self._next_step = None
        self.recording = self._may_record()
        if not self.recording:
            # A checkpoint of a recorded run brings its settings with it.
            unrecord_optimizer(self.optimizer)
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

    def seed_step(self, seed):
        """Make what is random in a step (dropout) depend on its number.

        A run that is resumed then goes on as it would have. Called in
        ``on_fit_batch_start``; torch.manual_seed would take longer than a
        recorded step, because it looks after every kind of device.

        Arguments
        ---------
        seed : int
            Of the experiment.
        """
        if self.device_type == "cuda":
            index = torch.device(self.device).index or 0
            generator = torch.cuda.default_generators[index]
        else:
            generator = torch.default_generator
        generator.manual_seed(seed * 1_000_003 + self.optimizer_step)

    def _may_record(self):
        """Whether the step can be recorded; says why not."""
        if self.device_type != "cuda":
            return False
        reasons = {
            "record_step is False": not self.record_step,
            "--debug": self.debug,
            "--compile or --jit": self.compile or self.jit,
            "several processes": self.distributed_launch
            or self.data_parallel_backend,
            "--precision=fp16": self.scaler.is_enabled(),
            "--grad_accumulation_factor": self.grad_accumulation_factor != 1,
            "--skip_nonfinite_grads": self.skip_nonfinite_grads,
            "--profile_training": self.profile_training,
        }
        for reason, holds in reasons.items():
            if holds:
                logger.info(
                    "The training step is not recorded as a CUDA graph (%s): "
                    "steps take longer.",
                    reason,
                )
                return False
        return True

    def fit_batch(self, batch):
        """One training step, recorded or as SpeechBrain does it.

        Arguments
        ---------
        batch : ChunkBatch
            From RandomChunks.

        Returns
        -------
        torch.Tensor or None
            The loss; None of a recorded step, which nobody waits for.
        """
        if not self.recording:
            loss = super().fit_batch(batch)
            self.totals.add(loss=loss, steps=1)
            return loss
        self.on_fit_batch_start(batch, True)
        if self.training_step is None:
            self.training_step = self._record(batch.chunks)
        if batch.step != self._next_step:  # the first one, or after a jump
            self.training_step.seek(batch.step)
        self.training_step()
        self._next_step = batch.step + 1
        self.optimizer_step += 1
        return None

    def _record(self, chunks):
        def loss_of(step):
            """Loss of one step, which is added to the totals."""
            batch = WaveBatch(*chunks.draw(step))
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.totals.add(loss=loss.detach(), steps=1)
            return loss

        return TrainingStep(
            loss_of, self.optimizer, max_grad_norm=self.max_grad_norm
        )

    def update_average(self, loss, avg_loss):
        """Running average of the loss for the progress bar.

        Arguments
        ---------
        loss : torch.Tensor or None
            From fit_batch or evaluate_batch.
        avg_loss : float
            The average so far.

        Returns
        -------
        float
            The new average; of recorded steps a new one every
            ``read_interval`` steps.
        """
        if loss is not None:
            return super().update_average(loss, avg_loss)
        if self.step % self.read_interval:
            return avg_loss
        return self._average()

    def _average(self):
        totals = self.totals.read()
        average = totals["loss"] / max(1.0, totals["steps"])
        if not math.isfinite(average):
            raise ValueError(
                f"The loss is not finite by step {self.optimizer_step}. The "
                "last checkpoint is from before; a lower learning rate or "
                "gradient clipping (--max_grad_norm=5) may help."
            )
        return average

    def on_stage_start(self, stage, epoch=None):
        """Gets called at the beginning of each stage.

        Arguments
        ---------
        stage : sb.Stage
            One of sb.Stage.TRAIN, sb.Stage.VALID, or sb.Stage.TEST.
        epoch : int
            The currently-starting epoch.
        """
        # A resumed epoch goes on with the sums of its checkpoint.
        if stage == sb.Stage.TRAIN and self.step == 0:
            self.totals.clear()
