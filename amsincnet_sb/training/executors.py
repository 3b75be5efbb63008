"""Where commands run: on this machine, or on a cluster that people have."""

import contextlib
import os
import queue
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from amsincnet_sb.training.children import Children
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.locks import sole_process
from amsincnet_sb.utils.reading import read_json

__all__ = ["open_executor", "run_command"]

_THREAD = threading.local()
PATIENCE = 1.0  # seconds between two looks at a folder in use
ANSWER = 10.0  # seconds in which a scheduler must answer
WHAT = "a scheduler of dask: its address, as in tcp://host:8786, or its file"
GIVE = f"give {WHAT}"


def run_command(command, folder, children=None):
    """Run a command that works in a folder; returns its exit status.

    What it prints is in ``folder.log`` beside the folder. Where a worker has
    died, what it had started may still be saving its checkpoint: its end is
    waited for. ``children`` stops commands that are no longer wanted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    device = getattr(_THREAD, "device", "")
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    _wait_for(folder)
    with (
        open(folder.with_suffix(".log"), "w", encoding="utf-8") as log,
        contextlib.nullcontext(children) if children else Children() as those,
    ):
        return those.start(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT
        ).wait()


@contextlib.contextmanager
def open_executor(address, devices=(), jobs_per_device=1):
    """A function that queues a command and its folder, and returns a future.

    The future's result is the exit status. An empty ``address`` stands for this
    machine: a process at a time on each of ``devices``, GPUs as
    ``CUDA_VISIBLE_DEVICES`` names them, or on the CPU, none of which outlives
    the block. Else it is that of a scheduler of dask, which runs on SLURM,
    Kubernetes or a few machines that share their files: a command at a time on
    each thread of each worker; if a worker dies, another one starts it again.
    What runs there when the block is left by an exception goes on.

    Raises
    ------
    InputError
        No scheduler has this address, or dask is not installed.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "run"
    >>> with open_executor("") as submit:
    ...     submit(["true"], folder).result()
    0
    """
    with _cluster(address) if address else _here(devices, jobs_per_device) as s:
        yield s


@contextlib.contextmanager
def _here(devices, jobs_per_device):
    free = queue.Queue()
    for device in list(devices or [""]) * jobs_per_device:
        free.put(device)

    def take():
        """A device for a thread."""
        _THREAD.device = free.get()

    with (
        ThreadPoolExecutor(free.qsize(), initializer=take) as pool,
        Children() as children,
    ):
        try:
            yield lambda command, folder: pool.submit(
                run_command, command, folder, children
            )
            pool.shutdown()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _cluster(address):
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--executor needs dask; `pip install distributed` installs it."
        ) from error
    given = address
    if os.path.isfile(address):
        address = read_json(address, GIVE).get("address")
    if "://" not in str(address):
        raise InputError(f"--executor is {given!r} but must be {WHAT}.")
    try:
        client = Client(address, timeout=ANSWER)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"--executor: no scheduler of dask answers at {address}; start one "
            "with `dask scheduler`, and workers with `dask worker`."
        ) from error
    with client, client.get_executor(pure=False) as pool:
        yield lambda command, folder: pool.submit(run_command, command, folder)


def _wait_for(folder):
    while True:
        try:
            with sole_process(folder):
                return
        except InputError:
            if not (folder / ".lock").exists():
                raise
            time.sleep(PATIENCE)
