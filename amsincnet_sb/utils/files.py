"""Files and folders that are either whole or not there."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from amsincnet_sb.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["atomic_write", "exclusive", "replaced_folder"]


@contextlib.contextmanager
def atomic_write(path, mode="w"):
    """Open a file, for text (UTF-8) or bytes (``"wb"``), to be whole or not.

    Written beside its place, flushed to the disk and renamed, so that a
    reader sees the old content or the new; after an error, the old. Its
    folder is made if need be; an InputError says that it cannot be written.

    Example
    -------
    >>> tmp = getfixture("tmp_path")
    >>> with atomic_write(tmp / "a.txt") as file:
    ...     _ = file.write("whole")
    >>> (tmp / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary = None
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with _written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}."
            )
            with open(handle, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            temporary = None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def replaced_folder(folder):
    """Make a folder that takes its name, or another's place, when complete.

    Yields the folder to fill, beside the final one; its files are flushed to
    the disk before it is renamed. An InputError says that it cannot be
    written.

    Example
    -------
    >>> tmp = getfixture("tmp_path")
    >>> with replaced_folder(tmp / "a") as folder:
    ...     _ = (folder / "b.txt").write_text("whole")
    >>> [path.name for path in (tmp / "a").iterdir()]
    ['b.txt']
    """
    folder = Path(folder)
    temporary = None
    try:
        with _written(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(
                tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.")
            )
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            _place(temporary, folder)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path):
    """Let one process at a time change a group of files.

    ``path`` is an existing file that all of them name; it is not changed. An
    InputError says that it cannot be opened for writing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "counter.txt"
    >>> _ = path.write_text("1")
    >>> with exclusive(path):
    ...     _ = path.write_text(str(int(path.read_text()) + 1))
    """
    with _written(path):
        # For writing, as locks on network file systems demand.
        file = open(path, "rb+")
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _written(path):
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}."
        ) from error


def _place(source, folder):
    """Flush a finished folder and give it its name, in place of an old one."""
    for path in [*source.iterdir(), source]:
        _flush(path)
    old = None
    if folder.exists():
        # A folder cannot be renamed over one that has files in it.
        old = source.with_name(f"{source.name}.old")
        folder.rename(old)
    try:
        source.rename(folder)
    except BaseException:
        if old is not None:
            old.rename(folder)
        raise
    try:
        _flush(folder.parent)
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _flush(path):
    """Have a file, or the names in a folder, written to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
