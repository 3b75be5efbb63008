"""A Brain that saves and ends when asked to stop."""

import sys
import time

import speechbrain as sb
import torch.distributed as dist

from amsincnet_sb.training.distributed import any_rank, world_size
from amsincnet_sb.training.signals import STOPPED, StopRequest, stop_requests

__all__ = ["StoppableBrain"]

logger = sb.utils.logger.get_logger(__name__)


class StoppableBrain(sb.Brain):
    """A Brain that SIGTERM and SIGINT end with a checkpoint.

    After the current step it saves within the epoch and exits with the status
    :data:`amsincnet_sb.training.signals.STOPPED`; started again, the run goes
    on. Of several processes, all stop after the same step when one is asked.
    SpeechBrain's Brain dies wherever it is. Where a limit of steps ends the
    training within an epoch, it saves within the epoch, too. Arguments are
    those of speechbrain.core.Brain.
    """

    #: Steps between two agreements of several processes on a GPU.
    read_interval = 50

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stop_request = StopRequest()

    def fit(self, *args, **kwargs):
        """Train; see speechbrain.core.Brain."""
        with stop_requests() as self.stop_request:
            super().fit(*args, **kwargs)
            if self._asked_to_stop():  # while the last checkpoint was written
                self._stop("after training")

    def evaluate(self, *args, **kwargs):
        """Evaluate; see speechbrain.core.Brain."""
        with stop_requests() as self.stop_request:
            return super().evaluate(*args, **kwargs)

    def evaluate_batch(self, batch, stage):
        """Evaluate one batch; see speechbrain.core.Brain."""
        # Several processes have no common batch to stop after.
        if self.stop_request and world_size() == 1:
            if stage == sb.Stage.TEST:
                self._stop("before the last evaluation")
            raise _StopEvaluation
        return super().evaluate_batch(batch, stage)

    def close(self):
        """Leave the group of processes, after the last common operation."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def ended_within_epoch(self):
        """Whether the limit of steps is reached before the epoch's last step."""
        step, _ = self._trained
        return self._optimizer_step_limit_exceeded and step < self._length

    def _fit_train(self, train_set, epoch, enable):
        self._trained = self.step, self.avg_train_loss
        self._length = len(train_set)
        super()._fit_train(train_set, epoch, enable)

    def _fit_valid(self, valid_set, epoch, enable):
        if self._asked_to_stop():
            self._stop_before_validation()
        if self.ended_within_epoch and not self._trained[0]:
            return  # the limit was reached before, at an epoch's end
        try:
            super()._fit_valid(valid_set, epoch, enable)
        except _StopEvaluation:
            self._stop_before_validation()

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
        # Later is too late: the loop takes one more batch to see the limit.
        due = due or late or self.ended_within_epoch
        return self.checkpointer is not None and due

    def _stop_before_validation(self):
        """Save as after the epoch's last step."""
        self.step, self.avg_train_loss = self._trained
        if self.checkpointer is not None and not self.ended_within_epoch:
            self._save_intra_epoch_ckpt()
        self._stop("before an evaluation")

    def _asked_to_stop(self):
        return any_rank([bool(self.stop_request)], self._wire())[0]

    def _stop(self, when):
        logger.info(
            "Stopped %s (step %d) by %s; started again, it goes on.",
            when,
            self.optimizer_step,
            self.stop_request.name or "a signal to another process",
        )
        self.close()
        sys.exit(STOPPED)

    def _wire(self):
        """The device that the processes communicate through."""
        nccl = world_size() > 1 and dist.get_backend() == "nccl"
        return self.device if nccl else "cpu"


class _StopEvaluation(Exception):
    """Somebody asked to stop while a stage is evaluated."""
