"""A Brain whose training step can be one replay of a CUDA graph."""

import logging
import sys
import time

import speechbrain as sb
import torch
import torch.distributed as dist
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from amsincnet_sb.dataio.batch import WaveBatch
from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.training.captured_step import TrainingStep, unrecord_optimizer
from amsincnet_sb.training.distributed import (
    GradientReducer,
    add_over_ranks,
    any_rank,
    common_error,
    cut_compiled_step,
    rank,
    world_size,
)
from amsincnet_sb.training.signals import STOPPED, StopRequest, stop_requests
from amsincnet_sb.training.sync_batchnorm import synchronize_batchnorm

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

    Each process adds up what it sees; :meth:`read` gives the sums over all.

    Arguments
    ---------
    names : sequence of str
        What is summed.
    device : str
        Where.

    Attributes
    ----------
    values : torch.Tensor
        ``[names]``, float64; the sums of this process.

    Example
    -------
    >>> totals = Totals(["loss", "examples"], "cpu")
    >>> totals.add(loss=torch.tensor(3.0), examples=2)
    >>> totals.add(loss=torch.tensor(1.0), examples=2)
    >>> totals.read()
    {'loss': 4.0, 'examples': 4.0}
    """

    def __init__(self, names, device):
        self.values = torch.zeros(len(names), dtype=torch.float64).to(device)
        self.sums = dict(zip(names, self.values.unbind()))
        self._of_ranks = None

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
        """The sums over all processes, which must all ask, as numbers.

        Returns
        -------
        dict
        """
        values = add_over_ranks(self.values.clone())
        return dict(zip(self.sums, values.tolist()))

    def clear(self):
        """Back to zero, in place."""
        self.values.zero_()

    def gather(self):
        """Collect the sums of all processes, before the main one saves."""
        self._of_ranks = [self.values]
        if world_size() > 1:
            self._of_ranks = [
                torch.zeros_like(self.values) for _ in range(world_size())
            ]
            dist.all_gather(self._of_ranks, self.values)

    @mark_as_saver
    def _save(self, path):
        rows = torch.stack(self._of_ranks or [self.values]).cpu()
        torch.save(dict(zip(self.sums, rows.unbind(1))), path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.clear()
        if end_of_epoch:
            return
        saved = torch.load(path, weights_only=True)
        for name, value in self.sums.items():
            row = saved[name].reshape(-1)
            if len(row) == world_size():
                value.copy_(row[rank()])
            elif rank() == 0:  # saved by another number of processes
                value.copy_(row.sum())


class RecordedBrain(sb.Brain):
    """A Brain for models so small that launching their kernels takes longest.

    Where the device allows it, the whole training step (drawing the chunks,
    ``compute_forward``, ``compute_objectives``, gradients, clipping and the
    optimizer) is compiled and recorded as a CUDA graph, and
    :meth:`fit_batch` replays it. Nothing else of SpeechBrain's loop changes:
    progress bar, epochs, checkpoints by interval and all hooks run as
    always. Training batches must come from
    :class:`amsincnet_sb.dataio.batches.RandomChunks`.

    What ``compute_forward`` and ``compute_objectives`` do in training must
    not read the device (no ``.item()``); sums go to :attr:`totals`.
    Options that cannot be recorded turn recording off, and the log says so
    once.

    Under torchrun each process computes the loss of its own batch, and the
    gradients are averaged over the processes while the rest of the backward
    pass goes on (:class:`amsincnet_sb.training.distributed.GradientReducer`); no
    module is wrapped. This too is recorded.

    A step whose loss or gradient is not finite changes nothing but the
    number of steps: it is skipped, named in the log, and more than
    ``--nonfinite_patience`` of them in an epoch stop the run. SIGTERM and
    SIGINT save a checkpoint and end it with the status
    :data:`amsincnet_sb.training.signals.STOPPED`.

    Arguments
    ---------
    record_step : bool
        Record where possible.
    sync_batchnorm : bool
        With several processes: normalise by the statistics of all their
        batches, so that they compute what one process with the joint batch
        would. False, which is faster: each by its own, and the running
        statistics are averaged.
    **kwargs : dict
        See speechbrain.core.Brain.

    Attributes
    ----------
    totals : Totals
        ``loss`` (summed over steps), ``steps``, ``skipped`` and what
        :attr:`totals_names` adds.
    """

    #: Further sums of an epoch.
    totals_names = ()
    #: Modules of ``modules``, where there are such, before which a compiled
    #: step of several processes is cut in two: gradients of what lies behind
    #: are then sent while the backward pass goes on before.
    split_before = ()
    #: Steps between two readings of the device for the progress bar.
    read_interval = 50

    def __init__(self, record_step=True, sync_batchnorm=True, **kwargs):
        super().__init__(**kwargs)
        self.record_step = record_step
        self.sync_batchnorm = sync_batchnorm
        self.stop_request = StopRequest()
        self.training_step = self.reducer = self._accumulated = None

    def on_fit_start(self):
        """Gets called once before training, recovers a checkpoint."""
        self.totals = Totals(
            ["loss", "steps", "skipped", *self.totals_names], self.device
        )
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable(
                "totals", self.totals, optional_load=True
            )
        super().on_fit_start()
        self.training_step = self._next_step = None
        self.recording = self._may_record()
        if self.reducer is not None:  # of an earlier fit
            self.reducer.detach()
        self.reducer = GradientReducer(
            self.modules.parameters(),
            averages=[] if self.sync_batchnorm else self._running_statistics(),
            dtype=self._traffic_dtype(),
            closing=[
                parameter
                for name, module in self.modules.named_modules()
                if name in self.split_before
                for parameter in list(module.parameters())[:1]
            ],
        )
        if not self.recording:
            # A checkpoint of a recorded run brings its settings with it.
            unrecord_optimizer(self.optimizer)
            for group, settings in zip(
                self.optimizer.param_groups, self._as_made
            ):
                group.update(settings)

    def _wrap_distributed(self):
        """Prepare the modules for several processes; wraps none of them."""
        if not self.distributed_launch or world_size() == 1:
            if self.data_parallel_backend:
                super()._wrap_distributed()
            return
        if self.sync_batchnorm:
            for name, module in self.modules.items():
                self.modules[name] = synchronize_batchnorm(module)
        with torch.no_grad():
            for tensor in self.modules.state_dict(keep_vars=True).values():
                dist.broadcast(tensor.detach(), src=0)

    def _running_statistics(self):
        return [
            statistic
            for module in self.modules.modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and module.track_running_stats
            for statistic in (module.running_mean, module.running_var)
        ]

    def _traffic_dtype(self):
        """Gradients of products in bfloat16 have no more digits to lose."""
        bfloat16 = self.device_type == "cuda" and self.precision == "bf16"
        return torch.bfloat16 if bfloat16 else None

    def init_optimizers(self):
        """Gets called by on_fit_start, before a checkpoint is recovered."""
        super().init_optimizers()
        self._as_made = [
            {k: group[k] for k in ("foreach", "fused") if k in group}
            for group in self.optimizer.param_groups
        ]

    def seed_step(self, seed):
        """Make what is random in a step (dropout) depend on its number.

        A run that is resumed then goes on as it would have; each process has
        numbers of its own. Called in
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
        number = seed * 1_000_003 + self.optimizer_step
        generator.manual_seed(number + rank() * 1_000_000_000_039)

    def _may_record(self):
        """Whether the step can be recorded; says why not."""
        if self.device_type != "cuda":
            return False
        reasons = {
            "record_step is False": not self.record_step,
            "--debug": self.debug,
            "--compile or --jit": self.compile or self.jit,
            "several processes without NCCL": world_size() > 1
            and dist.get_backend() != "nccl",
            "--data_parallel_backend": self.data_parallel_backend,
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
            return self._fit_batch_unrecorded(batch)
        self.on_fit_batch_start(batch, True)
        if self.training_step is None:
            self.training_step = self._record(batch.chunks)
        if batch.step != self._next_step:  # the first one, or after a jump
            self.training_step.seek(batch.step)
        if self._inputs is not None:
            for kept, drawn in zip(self._inputs, batch.chunks.draw(batch.step)):
                if self.device_type == "cuda":
                    drawn = drawn.pin_memory()
                kept.copy_(drawn, non_blocking=True)
        self.training_step()
        self._next_step = batch.step + 1
        self.optimizer_step += 1
        return None

    def _record(self, chunks):
        # What is read from files comes through tensors that stay in place.
        self._inputs = None
        if chunks.audio.streams:
            self._inputs = [x.to(self.device) for x in chunks.draw(0)]

        def loss_of(step):
            """Loss of one step, which is added to the totals."""
            batch = WaveBatch(*(self._inputs or chunks.draw(step)))
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.totals.add(loss=loss.detach(), steps=1)
            return loss

        self._chunks = chunks
        if world_size() > 1:
            for name, module in self.modules.named_modules():
                if name in self.split_before:
                    cut_compiled_step(module)
        return TrainingStep(
            loss_of,
            self.optimizer,
            max_grad_norm=self.max_grad_norm,
            state=[*self.modules.buffers(), self.totals.values],
            reducer=self.reducer,
        )

    def _fit_batch_unrecorded(self, batch):
        """SpeechBrain's own step, undone where it is not finite."""
        if self._accumulated is None:
            # What a step changes beside the weights.
            changed = [*self.modules.buffers(), self.totals.values]
            self._before = [(tensor, tensor.clone()) for tensor in changed]
            self._accumulated = 0.0
        self._batch, self._loss = batch, None
        loss = super().fit_batch(batch)
        if self._loss is not None:  # not skipped
            self.totals.add(loss=self._loss, steps=1)
        return loss

    def check_loss_isfinite(self, loss):
        """Gets called between the forward and the backward pass.

        Arguments
        ---------
        loss : torch.Tensor
            Scaled for the backward pass.
        """
        self._loss = loss.detach() * self.grad_accumulation_factor
        if self.scaler.is_enabled():
            self._loss = self._loss / self.scaler.get_scale()
        # Not finite from the first time that one is not.
        self._accumulated = self._accumulated + loss.detach()
        self.reducer.enabled = self.step % self.grad_accumulation_factor == 0
        self.reducer.forwarded(self._accumulated)

    def optimizers_step(self):
        """Update the weights, unless a number of the step is not finite."""
        finite = self.reducer.finish()
        if not self.scaler.is_enabled():  # which looks after its gradients
            gradients = [
                parameter.grad
                for parameter in self.modules.parameters()
                if parameter.grad is not None
            ]
            for value in finiteness(gradients) if gradients else []:
                finite = finite & value.isfinite()
        self._accumulated = None
        if finite:
            super().optimizers_step()
            return
        with torch.no_grad():
            for tensor, value in self._before:
                tensor.copy_(value)
        self.zero_grad(set_to_none=True)
        self._loss = None
        self.optimizer_step += 1
        self._note_skipped([self._batch.step], self._batch.chunks)

    def _note_skipped(self, steps, chunks):
        """Count and name steps that were skipped; too many end the run."""
        for step in steps:
            self.totals.add(skipped=float(rank() == 0))
            origins = [self._blame(chunks, step)]
            if world_size() > 1:
                origins = [None] * world_size()
                dist.all_gather_object(origins, self._blame(chunks, step))
            named = [origin for origin in origins if origin is not None]
            origin = named[0] if named else "its loss or a gradient"
            logger.warning(
                "Step %d was skipped: %s is not finite.", step, origin
            )
        skipped = self.totals.read()["skipped"]
        if skipped > self.nonfinite_patience:
            raise common_error(
                f"{skipped:.0f} steps of this epoch were skipped because of "
                f"numbers that are not finite (the last one, {steps[-1]}, by "
                f"{origin}); the last checkpoint is intact: look at the audio "
                "or lower the learning rate before you go on."
            )

    @torch.no_grad()
    def _blame(self, chunks, step):
        """Which chunk of a step gives numbers that are not finite, if one."""
        batch = WaveBatch(*chunks.draw(step))
        bad = ~batch.sig.data.isfinite().all(1)
        where = "the audio of"
        if not bad.any():
            training = self.modules.training
            self.modules.eval()
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            self.modules.train(training)
            where = "what the network makes of"
            if torch.is_tensor(outputs) and len(outputs) == len(batch):
                bad = ~outputs.isfinite().flatten(1).all(1)
        bad = bad.to(chunks.audio.labels.device)
        if bad.all():  # it is the network
            return None
        return f"{where} {chunks.describe(step, bad)}" if bad.any() else None

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
        self._look_after_recorded()
        totals = self.totals.read()
        return totals["loss"] / max(1.0, totals["steps"])

    def _look_after_recorded(self):
        """Learn from the device which recorded steps were skipped."""
        if self.recording and self.training_step is not None:
            skipped = self.training_step.read_skipped()
            if skipped:
                self._note_skipped(skipped, self._chunks)

    def epoch_totals(self):
        """The sums over the epoch that ends, in ``on_stage_end``.

        Returns
        -------
        dict
            A number for each name.

        Raises
        ------
        InputError
            If every step of the epoch was skipped.
        """
        self._look_after_recorded()
        totals = self.totals.read()
        if totals["skipped"] and not totals["steps"]:
            raise common_error(
                "No step of the epoch had a loss and gradients that are "
                "finite; the last checkpoint is from before."
            )
        return totals

    def mean_over_ranks(self, mean, count):
        """Mean over processes that share a data set, in ``on_stage_end``.

        Arguments
        ---------
        mean : float
            Of this process, such as its average loss.
        count : int
            Of how many.

        Returns
        -------
        float
        """
        if world_size() == 1:
            return float(mean)
        sums = [float(mean) * count, count]
        sums = torch.tensor(sums, dtype=torch.float64, device=self._wire())
        total, count = add_over_ranks(sums).tolist()
        return total / max(count, 1)

    def fit(self, *args, **kwargs):
        """Train; see speechbrain.core.Brain.

        SIGTERM and SIGINT end it after the current step with a checkpoint
        and ``SystemExit(STOPPED)``.

        Arguments
        ---------
        *args, **kwargs
            As of the base class.
        """
        with stop_requests() as self.stop_request:
            super().fit(*args, **kwargs)
            if self._asked_to_stop():  # while the last checkpoint was written
                self._stop("after training")

    def evaluate(self, *args, **kwargs):
        """Evaluate; see speechbrain.core.Brain.

        Arguments
        ---------
        *args, **kwargs
            As of the base class.

        Returns
        -------
        float
            The average loss.
        """
        with stop_requests() as self.stop_request:
            return super().evaluate(*args, **kwargs)

    def _fit_train(self, train_set, epoch, enable):
        self._trained = self.step, self.avg_train_loss
        super()._fit_train(train_set, epoch, enable)

    def _fit_valid(self, valid_set, epoch, enable):
        if self._asked_to_stop():
            self._stop_before_validation()
        try:
            super()._fit_valid(valid_set, epoch, enable)
        except _StopEvaluation:
            self._stop_before_validation()

    def evaluate_batch(self, batch, stage):
        """Evaluate one batch; see speechbrain.core.Brain.

        Arguments
        ---------
        batch : WaveBatch
            Windows.
        stage : sb.Stage
            One of sb.Stage.VALID or sb.Stage.TEST.

        Returns
        -------
        torch.Tensor
            The loss.
        """
        # Several processes have no common batch to stop after.
        if self.stop_request and world_size() == 1:
            if stage == sb.Stage.TEST:
                self._stop("before the last evaluation")
            raise _StopEvaluation
        return super().evaluate_batch(batch, stage)

    def _stop_before_validation(self):
        """Save as after the epoch's last step."""
        self.step, self.avg_train_loss = self._trained
        if self.checkpointer is not None:
            self._save_intra_epoch_ckpt()
        self._stop("before an evaluation")

    def _asked_to_stop(self):
        return any_rank([bool(self.stop_request)], self._wire())[0]

    def _wire(self):
        """The device that the processes talk through."""
        nccl = world_size() > 1 and dist.get_backend() == "nccl"
        return self.device if nccl else "cpu"

    def _stop(self, when):
        name = self.stop_request.name or "a signal to another process"
        logger.info(
            "Stopped %s (step %d) by %s; started again, it goes on.",
            when,
            self.optimizer_step,
            name,
        )
        self.close()
        sys.exit(STOPPED)

    def close(self):
        """Leave the group of processes, after the last thing done together."""
        if self.training_step is not None:
            self.training_step.release()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """After each step: whether to save; does so and ends if asked to."""
        self._trained = self.step, self.avg_train_loss
        minutes = (time.time() - last_ckpt_time) / 60.0
        late = 0 < self.ckpt_interval_minutes < minutes
        flags = [bool(self.stop_request), late]
        if world_size() > 1:
            # All must save after the same step; asking takes time on a GPU.
            due = self._wire() == "cpu" or self.step % self.read_interval == 0
            flags = any_rank(flags, self._wire()) if due else [False, False]
        stop, late = flags
        if stop:
            if self.checkpointer is not None:
                self._save_intra_epoch_ckpt()
            self._stop("within an epoch")
        due = 0 < self.ckpt_interval_steps <= steps_since_ckpt
        return self.checkpointer is not None and (due or late)

    def _save_intra_epoch_ckpt(self):
        self._look_after_recorded()
        super()._save_intra_epoch_ckpt()

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


class _StopEvaluation(Exception):
    """Somebody asked to stop while a stage is evaluated."""
