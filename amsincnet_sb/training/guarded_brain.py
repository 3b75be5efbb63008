"""A Brain whose steps are undone where they are NaN or infinite."""

import math

import speechbrain as sb
import torch
import torch.distributed as dist

from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.training.device import keep_freed_memory
from amsincnet_sb.training.distributed import (
    RankAgreement,
    add_over_ranks,
    common_error,
    rank,
    world_size,
    wrap_distributed,
)
from amsincnet_sb.training.guard import StepGuard
from amsincnet_sb.training.stoppable import StoppableBrain
from amsincnet_sb.training.totals import Totals

__all__ = ["GuardedBrain"]

logger = sb.utils.logger.get_logger(__name__)


class GuardedBrain(StoppableBrain):
    """SpeechBrain's training step, guarded and resumed exactly.

    A step whose loss or gradients are NaN or infinite changes nothing but the
    step counter: it is skipped and named in the log, and more than
    ``--nonfinite_patience`` of them in an epoch stop the run. The training set
    is a :class:`amsincnet_sb.dataio.batches.RandomChunks`.

    Sums over an epoch go to ``totals``: ``loss`` (summed over steps), ``steps``,
    ``skipped`` and those of :attr:`totals_names`.

    Under torchrun each process computes the loss of its own batch, and
    DistributedDataParallel averages the gradients.

    Arguments
    ---------
    sync_batchnorm : bool
        With several processes: normalise by the statistics of all their
        batches, so that they compute what one process with the joint batch
        would. False, which is faster: each by its own, and the running
        statistics are averaged.
    **kwargs : dict
        See speechbrain.core.Brain.
    """

    #: Further sums of an epoch.
    totals_names = ()

    def __init__(self, sync_batchnorm=True, **kwargs):
        super().__init__(**kwargs)
        self.sync_batchnorm = sync_batchnorm
        self.agreement = self.guard = None

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
        self.guard = None
        averages = [] if self.sync_batchnorm else self._running_statistics()
        self.agreement = RankAgreement(averages, self.device)

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
        finite = self.agreement.finish().isfinite()
        signs = self._clip()
        # Above 1 a scaler looks for a scale at which gradients are finite.
        if self.scaler.get_scale() <= 1:  # and 1 if it is not enabled
            for value in signs:
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

    def _clip(self):
        """Clip all gradients together; NaN or infinite where one of them is.

        SpeechBrain's step clips those of the optimizer's first group alone.
        """
        parameters = [
            parameter
            for parameter in self.modules.parameters()
            if parameter.grad is not None
        ]
        if not parameters:
            return []
        if self.max_grad_norm == math.inf:
            return finiteness([parameter.grad for parameter in parameters])
        limit = self.max_grad_norm * self.scaler.get_scale()
        return [torch.nn.utils.clip_grad_norm_(parameters, limit)]

    def update_average(self, loss, avg_loss):
        """Running average of the loss for the progress bar.

        That of an evaluation is NaN where a loss in it is NaN or infinite.
        """
        if not self.modules.training and not loss.isfinite():
            return math.nan
        return super().update_average(loss, avg_loss)

    def epoch_totals(self):
        """The sums over the epoch that ends, for ``on_stage_end``.

        An InputError if every step was skipped.
        """
        totals = self.totals.read()
        if totals["skipped"] and not totals["steps"]:
            raise common_error(
                "Every step of the epoch had a loss or gradients that are NaN "
                "or infinite; the last checkpoint is from before."
            )
        return totals

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

    def _fit_train(self, train_set, epoch, enable):
        self._chunks = train_set.dataset
        super()._fit_train(train_set, epoch, enable)
