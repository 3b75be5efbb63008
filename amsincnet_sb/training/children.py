"""Processes that end with the one that has started them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time

from amsincnet_sb.training.signals import STOPPED

__all__ = ["Children", "end_with"]

PATIENCE = 60.0  # seconds in which a training must have saved its checkpoint
PR_SET_PDEATHSIG = 1  # of Linux


class Children:
    """Child processes, none of which outlives the block.

    Leaving the block by an exception, SIGTERM (an exit with status
    :data:`amsincnet_sb.training.signals.STOPPED`) or Ctrl-C sends them SIGTERM
    and waits for them; after a minute they are killed. If this process is
    killed, Linux sends them SIGTERM.

    Example
    -------
    >>> with Children() as children:
    ...     children.start(["true"]).wait()
    0
    """

    def __init__(self):
        self._running, self._lock = set(), threading.Lock()
        self._stopping = False

    def __enter__(self):
        with contextlib.suppress(ValueError):  # not in the main thread
            self._before = signal.signal(signal.SIGTERM, _exit)
        return self

    def __exit__(self, *error):
        self._stop()
        with contextlib.suppress(ValueError, AttributeError):
            signal.signal(signal.SIGTERM, self._before)

    def start(self, command, **options):
        """Start a process; arguments of subprocess.Popen.

        The thread that calls this must live as long as the process.
        """
        with self._lock:
            if self._stopping:
                raise InterruptedError("no process is started any more")
            process = subprocess.Popen(
                command, preexec_fn=end_with(os.getpid()), **options
            )
            self._running.add(process)
            return process

    def _stop(self):
        with self._lock:
            self._stopping = True
        running = [child for child in self._running if child.poll() is None]
        for child in running:
            child.terminate()
        end = time.monotonic() + PATIENCE
        try:
            for child in running:
                child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:  # after a second Ctrl-C too
            for child in running:
                child.kill()
                child.wait()


def _exit(number, frame):
    raise SystemExit(STOPPED)


def end_with(parent):
    """What a child does first: ask the system for SIGTERM at our end."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if os.name != "nt" else 0
    if not prctl:
        return None

    def _ask():
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(STOPPED)

    return _ask
