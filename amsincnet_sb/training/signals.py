"""SIGTERM and SIGINT as wishes to stop, not as ends."""

import contextlib
import signal
import time

__all__ = ["STOPPED", "StopRequest", "stop_requests"]

#: Exit status of a run that was asked to stop, saved, and can go on;
#: EX_TEMPFAIL of sysexits.h, "try again later".
STOPPED = 75
#: Seconds within which a signal counts as the same request: torchrun sends its
#: own after the terminal's.
REPEATED = 5.0


class StopRequest:
    """Whether somebody has asked this process to stop.

    Attributes
    ----------
    name : str or None
        Of the signal that came, such as "SIGTERM".
    """

    def __init__(self):
        self.name = None

    def __bool__(self):
        return self.name is not None


@contextlib.contextmanager
def stop_requests():
    """Turn SIGTERM and SIGINT into a request; a later second one acts.

    Yields
    ------
    StopRequest
        True from the first signal on. In a thread that is not the main one,
        where signals cannot be caught, it stays False.

    Example
    -------
    >>> with stop_requests() as asked:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     asked.name
    'SIGTERM'
    """
    request, before, first = StopRequest(), {}, []

    def note(number, frame):
        """Gets called by a signal."""
        if first and time.monotonic() - first[0] > REPEATED:
            signal.signal(number, before[number])
            signal.raise_signal(number)
            return
        first.append(time.monotonic())
        request.name = signal.Signals(number).name

    try:
        for wanted in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                before[wanted] = signal.signal(wanted, note)
        yield request
    finally:
        for wanted, handler in before.items():
            signal.signal(wanted, handler)
