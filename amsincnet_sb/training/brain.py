"""A Brain whose training step can be one replay of a CUDA graph."""

import logging
import math
import time

import speechbrain as sb
import torch
import torch.distributed as dist

from amsincnet_sb.dataio.batches import WaveBatch
from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.training.captured_step import CapturedStep
from amsincnet_sb.training.device import keep_freed_memory
from amsincnet_sb.training.distributed import (
    RankAgreement,
    add_over_ranks,
    common_error,
    on_main,
    rank,
    world_size,
    wrap_distributed,
)
from amsincnet_sb.training.guard import StepGuard
from amsincnet_sb.training.optimizer_state import (
    undo_capturable,
    without_effect,
)
from amsincnet_sb.training.stoppable import StoppableBrain
from amsincnet_sb.training.totals import Totals
from amsincnet_sb.utils.errors import InputError

__all__ = ["CapturedBrain"]

logger = sb.utils.logger.get_logger(__name__)

# Importing SpeechBrain's train loggers makes one of them, which is not used
# here, complain that it cannot save figures.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in str(record.msg)
)


class CapturedBrain(StoppableBrain):
    """A Brain for models whose kernels take less time than their launches.

    Where the device allows it, the training step (``compute_forward``,
    ``compute_objectives``, gradients, clipping and the optimizer) is compiled
    and captured as a CUDA graph. :meth:`fit_batch` copies the batch into the
    graph's input and replays it. Nothing else of SpeechBrain's loop changes:
    progress bar, epochs, checkpoints by interval and all hooks run as
    always. The training set is a
    :class:`amsincnet_sb.dataio.batches.RandomChunks`.

    ``compute_forward`` and ``compute_objectives`` must not read the device in
    training (no ``.item()``); sums go to ``totals``: ``loss`` (summed over
    steps), ``steps``, ``skipped`` and those of :attr:`totals_names`. Options
    that cannot be captured turn capturing off, and the log says so once.

    Under torchrun each process computes the loss of its own batch, and
    DistributedDataParallel averages the gradients; this too is captured.

    A step whose loss or gradients are NaN or infinite changes nothing but the
    step counter: it is skipped and named in the log, and more than
    ``--nonfinite_patience`` of them in an epoch stop the run.

    Arguments
    ---------
    capture_step : bool
        Capture where possible.
    compile_step : bool
        Compile what is captured.
    sync_batchnorm : bool
        With several processes: normalise by the statistics of all their
        batches, so that they compute what one process with the joint batch
        would. False, which is faster: each by its own, and the running
        statistics are averaged.
    sharpness_radius : float
        Of sharpness-aware minimisation, see
        :class:`~amsincnet_sb.training.sharpness.Sharpness`; 0 is none. For one
        process and none of SpeechBrain's options that change the step.
    **kwargs : dict
        See speechbrain.core.Brain.

    Raises
    ------
    InputError
        If such an option is given with a radius.
    """

    #: Further sums of an epoch.
    totals_names = ()

    def __init__(
        self,
        capture_step=True,
        sync_batchnorm=True,
        compile_step=True,
        sharpness_radius=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.capture_step = capture_step
        self.compile_step = compile_step
        self.sharpness_radius = sharpness_radius
        self.sync_batchnorm = sync_batchnorm
        self.captured_step = self.agreement = self.guard = None

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
        if self.device_type == "cpu":
            keep_freed_memory()
        self.captured_step = self.guard = None
        self.capturing = self._can_capture()
        # Else SpeechBrain's, which computes one gradient.
        self.own_step = self.capturing or self.sharpness_radius > 0
        averages = [] if self.sync_batchnorm else self._running_statistics()
        self.agreement = RankAgreement(averages, self.device)
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

    def on_stage_start(self, stage, epoch=None):
        """Gets called at the beginning of each stage."""
        # A resumed epoch goes on with the sums of its checkpoint.
        if stage == sb.Stage.TRAIN and self.step == 0:
            self.totals.clear()

    def seed_step(self, seed):
        """Make the randomness in a step (dropout) depend on its number.

        A run that is resumed then goes on as it would have; processes differ.
        Called with the experiment's seed in ``on_fit_batch_start``.
        torch.manual_seed would take longer than a captured step, because it
        seeds every kind of device.
        """
        if self.device_type == "cuda":
            index = torch.device(self.device).index or 0
            generator = torch.cuda.default_generators[index]
        else:
            generator = torch.default_generator
        number = seed * 1_000_003 + self.optimizer_step
        generator.manual_seed(number + rank() * 1_000_000_000_039)

    def fit_batch(self, batch):
        """One training step, captured or as SpeechBrain does it.

        Returns the loss, or None after a captured step, which nobody waits for.
        """
        if not self.own_step:
            return self._fit_batch_guarded(batch)
        self.on_fit_batch_start(batch, True)
        if self.captured_step is None:
            self.captured_step = self._make_captured_step()
        tensors = batch.sig.data, batch.spk_id_encoded.data, batch.utterance
        if self.device_type == "cuda" and not tensors[0].is_cuda:
            # Read from files; copied beside the replay.
            tensors = [tensor.pin_memory() for tensor in tensors]
        self.captured_step(batch.step, *tensors)
        self.optimizer_step += 1
        self.on_fit_batch_end(batch, None, None, True)
        return None

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
        def loss_fn(wavs, labels, utterance):
            """Loss of one batch, which is added to the totals."""
            batch = WaveBatch(wavs, labels.squeeze(1), utterance)
            with self.training_ctx:
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
            state=[*self.modules.buffers(), self.totals.values],
            agreement=self.agreement,
        )

    def _can_capture(self):
        """Whether the step can be captured; says why not."""
        others = {
            "--compile or --jit": self.compile or self.jit,
            "--data_parallel_backend": self.data_parallel_backend,
            "--precision=fp16": self.scaler.is_enabled(),
            "--grad_accumulation_factor": self.grad_accumulation_factor != 1,
            "--skip_nonfinite_grads": self.skip_nonfinite_grads,
            "--profile_training": self.profile_training,
        }
        if self.sharpness_radius > 0:
            others["several processes"] = world_size() > 1
            for option in [name for name, holds in others.items() if holds]:
                raise InputError(
                    f"sharpness_radius is {self.sharpness_radius:g} and cannot "
                    f"be combined with {option}; leave one of them out."
                )
        if self.device_type != "cuda":
            return False
        reasons = {
            "capture_step is False": not self.capture_step,
            "--debug": self.debug,
            "several processes without NCCL": world_size() > 1
            and dist.get_backend() != "nccl",
            **others,
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

    def _wrap_distributed(self):
        """Prepare the modules for several processes."""
        if not self.distributed_launch or world_size() == 1:
            if self.data_parallel_backend:
                super()._wrap_distributed()
            return
        if self.sync_batchnorm and self.device_type != "cuda":
            raise common_error(
                "sync_batchnorm: torch's SyncBatchNorm needs GPUs; give "
                "--sync_batchnorm=False."
            )
        for name, module in self.modules.items():
            if not any(p.requires_grad for p in module.parameters()):
                continue
            if self.sync_batchnorm:
                module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
            self.modules[name] = wrap_distributed(
                module,
                self.device,
                self.find_unused_parameters,
                self._traffic_dtype(),
            )

    def _running_statistics(self):
        return [
            statistic
            for module in self.modules.modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and module.track_running_stats
            for statistic in (module.running_mean, module.running_var)
        ]

    def _traffic_dtype(self):
        """Gradients of bfloat16 matmuls have no more digits to lose."""
        bfloat16 = self.device_type == "cuda" and self.precision == "bf16"
        return torch.bfloat16 if bfloat16 else None

    def _fit_batch_guarded(self, batch):
        """SpeechBrain's own step, undone where it is NaN or infinite."""
        if self.guard is None:
            self.guard = StepGuard(
                [*self.modules.buffers(), self.totals.values]
            )
            self._accumulated = None
        if self._accumulated is None:  # the first batch of an update
            self.guard.take()
            self._accumulated = 0.0
        self._batch, self._loss = batch, None
        loss = super().fit_batch(batch)
        if self._loss is not None:  # not skipped
            self.totals.add(loss=self._loss, steps=1)
        return loss

    def check_loss_isfinite(self, loss):
        """Gets called with the scaled loss before the backward pass."""
        self._loss = loss.detach() * self.grad_accumulation_factor
        if self.scaler.is_enabled():
            self._loss = self._loss / self.scaler.get_scale()
        # NaN or infinite from the first time that one is.
        self._accumulated = self._accumulated + loss.detach()
        if self.step % self.grad_accumulation_factor == 0:
            self.agreement.start(self._accumulated)

    def optimizers_step(self):
        """Update the parameters, unless the step is NaN or infinite."""
        finite = self.agreement.finish()
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
        self.guard.restore_unless(finite)
        self.zero_grad(set_to_none=True)
        self._loss = None
        self.optimizer_step += 1
        self._note_skipped([self._batch.step])

    def _note_skipped(self, steps):
        """Count and name steps that were skipped; too many end the run."""
        for step in steps:
            self.totals.add(skipped=float(rank() == 0))
            origins = [self._blame(step)]
            if world_size() > 1:
                origins = [None] * world_size()
                dist.all_gather_object(origins, self._blame(step))
            named = [origin for origin in origins if origin is not None]
            origin = named[0] if named else "its loss or a gradient"
            logger.warning(
                "Step %d was skipped: %s is NaN or infinite.", step, origin
            )
        skipped = self.totals.read()["skipped"]
        if skipped > self.nonfinite_patience:
            raise common_error(
                f"{skipped:.0f} steps of this epoch were skipped because of "
                f"NaN or infinite values (the last one, {steps[-1]}, by "
                f"{origin}); the last checkpoint is intact: look at the audio "
                "or lower the learning rate before you go on."
            )

    @torch.no_grad()
    def _blame(self, step):
        """Which chunk of a step makes the loss NaN or infinite, if one."""
        batch = self._chunks.batch(step).to(self.device)
        bad = ~batch.sig.data.isfinite().all(1)
        where = "the audio of"
        if not bad.any():
            training = self.modules.training
            self.modules.eval()
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            self.modules.train(training)
            where = "the network's output for"
            if torch.is_tensor(outputs) and len(outputs) == len(batch):
                bad = ~outputs.isfinite().flatten(1).all(1)
        if bad.all() or not bad.any():  # all: it is the network
            return None
        return f"{where} {self._chunks.describe(step, bad)}"

    def update_average(self, loss, avg_loss):
        """Running average of the loss for the progress bar.

        Of captured steps, a new one every ``read_interval`` steps. That of an
        evaluation is NaN where a loss in it is NaN or infinite.
        """
        if loss is not None:
            if not self.modules.training and not loss.isfinite():
                return math.nan
            return super().update_average(loss, avg_loss)
        if self.step % self.read_interval:
            return avg_loss
        self._look_for_skipped()
        totals = self.totals.read()
        return totals["loss"] / max(1.0, totals["steps"])

    def epoch_totals(self):
        """The sums over the epoch that ends, for ``on_stage_end``.

        An InputError if every step was skipped.
        """
        self._look_for_skipped()
        totals = self.totals.read()
        if totals["skipped"] and not totals["steps"]:
            raise common_error(
                "Every step of the epoch had a loss or gradients that are NaN "
                "or infinite; the last checkpoint is from before."
            )
        return totals

    @property
    def fallback(self):
        """What of the step failed and runs more plainly, as a dict for a log.

        Empty where the step runs as it was meant to.
        """
        sentence = self.captured_step and self.captured_step.fallback
        return {"fallback": sentence} if sentence else {}

    def mean_over_ranks(self, mean, count):
        """Mean loss of an evaluation over processes, ``count`` items in each.

        An InputError if it is NaN or infinite.
        """
        if world_size() > 1:
            sums = [float(mean) * count, count]
            sums = torch.tensor(sums, dtype=torch.float64, device=self._wire())
            total, count = add_over_ranks(sums).tolist()
            mean = total / max(count, 1)
        if not math.isfinite(mean):
            raise common_error(
                f"The evaluation after step {self.optimizer_step} gave a loss "
                "that is NaN or infinite, because of the weights; no "
                "checkpoint of them is kept: lower the learning rate, and the "
                "run goes on from the last one."
            )
        return float(mean)

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

    def _fit_train(self, train_set, epoch, enable):
        self._chunks = train_set.dataset
        super()._fit_train(train_set, epoch, enable)

    def _save_intra_epoch_ckpt(self):
        self._look_for_skipped()
        super()._save_intra_epoch_ckpt()
