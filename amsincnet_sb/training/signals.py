"""SIGTERM and SIGINT as requests to save and stop."""

import contextlib
import signal
import time

__all__ = ["STOPPED", "StopRequest", "stop_requests"]

#: Exit status of a run that was asked to stop, has saved and can be resumed:
#: EX_TEMPFAIL of sysexits.h, "try again later".
STOPPED = 75
#: Seconds within which further signals belong to the same request: torchrun
#: sends its own after the terminal's.
REPEATED = 5.0


class StopRequest:
    """True once a signal has come; ``name`` is that signal's ("SIGTERM")."""

    def __init__(self):
        self.name = None

    def __bool__(self):
        return self.name is not None


@contextlib.contextmanager
def stop_requests():
    """Turn SIGTERM and SIGINT into a request; a later second one acts.

    The request stays False in a thread that is not the main one, where signals
    cannot be caught.
    """
    request, before, first = StopRequest(), {}, []

    def _note(number, frame):
        if first and time.monotonic() - first[0] > REPEATED:
            signal.signal(number, before[number])
            signal.raise_signal(number)
            return
        first.append(time.monotonic())
        request.name = signal.Signals(number).name

    try:
        for wanted in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                before[wanted] = signal.signal(wanted, _note)
        yield request
    finally:
        for wanted, handler in before.items():
            signal.signal(wanted, handler)
