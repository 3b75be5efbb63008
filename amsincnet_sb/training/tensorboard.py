"""The evaluations of a run for TensorBoard, by SpeechBrain's own logger."""

from pathlib import Path

from speechbrain.utils.train_logger import TensorboardLogger

from amsincnet_sb.utils.errors import InputError

__all__ = ["open_tensorboard"]


def open_tensorboard(output_folder):
    """SpeechBrain's logger for ``tensorboard/`` in a results folder.

    It writes an evaluation at its training step. TensorBoard is imported now;
    InputError where it is not installed. The main process alone writes.
    """
    try:
        return _StepLogger(str(Path(output_folder) / "tensorboard"))
    except ImportError as error:
        raise InputError(
            "tensorboard: the package is not installed; pip install "
            "tensorboard, or give --tensorboard=False."
        ) from error


class _StepLogger(TensorboardLogger):
    """SpeechBrain's counts evaluations, from 0 in each process.

    Training steps are what a run that is resumed, or evaluated at another
    interval, has in common with what is there.
    """

    def log_stats(self, stats_meta, *args, **kwargs):
        """See TrainLogger."""
        before = stats_meta["step"] - 1
        self.global_step = {
            "meta": before,
            **{split: _At(before) for split in ("train", "valid", "test")},
        }
        super().log_stats(stats_meta, *args, **kwargs)
        if self.writer is not None:
            self.writer.flush()


class _At(dict):
    """A step for every name, until it has one of its own."""

    def __init__(self, step):
        self.step = step

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return self.step
