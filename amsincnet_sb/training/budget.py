"""Training for so many minutes: how many steps that is, measured once.

From the first step on such a run is one of that many steps: its ``run.json``
and ``hyperparams.yaml`` have the number as if it had been asked for, a run that
is continued keeps it, and one that is repeated with it gives the same model.
"""

import contextlib
import logging
import os
import time

from amsincnet_sb.training.distributed import on_main
from amsincnet_sb.training.hparams import load_recipe
from amsincnet_sb.utils.errors import InputError

__all__ = ["Budget", "epochs_or_minutes", "epochs_within", "process_start"]

logger = logging.getLogger(__name__)

#: Seconds to write the checkpoint, the curves and the model, and to exit.
WRITING = 5.0
#: Of the time, to train in any case, however long the start took.
LEAST = 0.25
#: Of the time for steps, left free: they get slower, on CPUs by some per cent.
SLACK = 0.04


def process_start():
    """When this process started, in the seconds of ``time.time()``.

    Where the system does not tell, as if it had computed ever since.
    """
    age = time.process_time()
    with contextlib.suppress(OSError, AttributeError, ValueError):
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        booted = ticks / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - booted
    return time.time() - age


def epochs_or_minutes(options, overrides):
    """Let ``number_of_epochs`` of a command line stand against a file's minutes.

    Both on the command line are an InputError. ``options`` are the recipe's
    plain values; both mappings are changed in place.
    """
    if not options["minutes"] or "number_of_epochs" not in overrides:
        return
    if "minutes" in overrides:
        raise InputError(
            "The command line has --minutes, which choose the number of epochs, "
            "and --number_of_epochs; give one of them."
        )
    options["minutes"] = overrides["minutes"] = 0


def epochs_within(seconds, step, evaluation, length, interval):
    """How many epochs of how many steps fit into a time.

    Arguments
    ---------
    seconds : float
        For all steps and evaluations.
    step, evaluation : float
        Seconds that one takes. There is an evaluation behind every
        ``interval`` epochs, and one behind the last epoch.
    length : int
        Steps of an epoch. There are fewer where not even one epoch fits, else
        up to twice as many, so that no time is left.
    interval : int
        Epochs between evaluations.

    Returns
    -------
    epochs, length : int
        At least one step.

    Example
    -------
    >>> epochs_within(60.0, step=0.1, evaluation=5.0, length=99, interval=99)
    (5, 110)
    >>> epochs_within(60.0, step=2.0, evaluation=5.0, length=99, interval=99)
    (1, 27)
    >>> epochs_within(60.0, step=0.1, evaluation=5.0, length=100, interval=1)
    (3, 122)
    """
    seconds -= evaluation
    steps = int(seconds / step)
    if steps > length * interval:
        steps = int(seconds / (step + evaluation / (length * interval)))
    steps = max(1, steps)
    epochs = max(1, steps // length)
    return epochs, steps // epochs


class Budget:
    """The minutes that a run may take from its command to its model.

    Arguments
    ---------
    minutes : float
        From ``started``, which is in the seconds of ``time.time()``.
    hparams_file, overrides
        Of the recipe; :meth:`spend` adds to the overrides.
    keep : callable
        Gets called on the main process when the number is in the overrides.
    """

    def __init__(self, minutes, started, hparams_file, overrides, keep):
        self.minutes = minutes
        self.started = started
        self.hparams_file = hparams_file
        self.overrides = overrides
        self.keep = keep

    def spend(self, step, evaluation, test, hparams):
        """The recipe for as many steps as fit into what is left of the time.

        Arguments
        ---------
        step, evaluation : float
            Seconds that one takes.
        test : float
            Seconds of the evaluation behind training.
        hparams : dict
            The recipe so far.

        Returns
        -------
        dict
            The recipe again, with schedules that end with the time.
        """
        epochs, length = on_main(self._fit, step, evaluation, test, hparams)
        self.overrides.update(
            minutes=0, number_of_epochs=epochs, batches_per_epoch=length
        )
        on_main(self.keep)
        return load_recipe(self.hparams_file, self.overrides)

    def _fit(self, step, evaluation, test, hparams):
        whole = 60 * self.minutes
        spent = time.time() - self.started
        end = test + WRITING
        left = max(whole - spent - end, LEAST * whole + evaluation)
        found = epochs_within(
            left - SLACK * (left - evaluation),
            step,
            evaluation,
            hparams["batches_per_epoch"],
            hparams["valid_interval"],
        )
        late = spent + left + end > whole + 1
        logger.log(
            logging.WARNING if late else logging.INFO,
            "The start took %.0f s, a step takes %.2f ms and the last "
            "evaluation %.1f s: %d epochs of %d steps will end %s %g minutes.",
            spent,
            1e3 * step,
            evaluation + test,
            *found,
            "later than the" if late else "with the",
            self.minutes,
        )
        return found
