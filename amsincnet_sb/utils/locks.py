"""One process at a time in a folder."""

import contextlib
import os
import platform
from pathlib import Path

from amsincnet_sb.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["sole_process"]

LOCK = ".lock"  # names the process that works in a folder
_HELD = set()  # folders of this process


@contextlib.contextmanager
def sole_process(folder):
    """Let one process at a time work in a folder, which is made if need be.

    The system's lock on a file ``.lock`` goes with the process, however that
    ends; the file says who holds it. Raises InputError at once where another
    process does, or the folder cannot be written. There is no lock on Windows,
    nor on a file system that has none.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "results"
    >>> with sole_process(folder), sole_process(folder):  # the same process
    ...     (folder / ".lock").exists()
    True
    """
    folder = Path(folder)
    key = os.path.realpath(folder)
    if key in _HELD:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder)
    except OSError as error:
        _remove(made)
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}."
        ) from error
    _HELD.add(key)
    try:
        yield
    finally:
        _HELD.remove(key)
        with file, contextlib.suppress(OSError):
            (folder / LOCK).unlink()  # still locked: see _lock
            _remove(made)


def _remove(folders):
    """Remove those that were made, where nothing has been put into them."""
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _lock(folder):
    path, flags = folder / LOCK, os.O_RDWR | os.O_CREAT
    while True:
        # A link would lead to a file that is not ours.
        handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        file = open(handle, "r+", encoding="utf-8", errors="replace")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                holder = file.read(200).split("\n")[0] or "another process"
            raise InputError(
                f"{folder} is in use by {holder}; wait until that has ended, "
                "or give another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                holder = f"process {os.getpid()} on {platform.node()}\n"
                try:
                    os.ftruncate(handle, 0)
                    os.write(handle, holder.encode())
                except OSError:  # the disk is full
                    with file, contextlib.suppress(OSError):
                        path.unlink()  # still locked
                    raise
                return file
        file.close()  # its holder has removed it meanwhile
