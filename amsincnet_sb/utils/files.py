"""Files and folders that are either whole or not there, and what may be one."""

import contextlib
import ctypes
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from amsincnet_sb.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "absolute",
    "atomic_write",
    "check_output",
    "check_outputs",
    "exclusive",
    "growing_file",
    "is_plain_file",
    "replaced_folder",
    "restore_folder",
    "spreadsheet_cell",
]

# What spreadsheets take for a formula, in full width too.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
# What is being written, and what it replaces, are called so beside it.
_NEW, _OLD = ".tmp", ".old"
# Names of files need not be text.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def absolute(path):
    """``os.path.abspath``, but ``link/../a`` is beside where the link leads.

    Example
    -------
    >>> absolute("/a/../b")
    '/b'
    """
    plain, real = os.path.abspath(path), os.path.realpath(path)
    return plain if os.path.realpath(plain) == real else real


@contextlib.contextmanager
def atomic_write(path, mode="w"):
    """Open a file, for text (UTF-8) or bytes (``"wb"``), to be whole or not.

    Written beside its place, flushed to the disk and renamed, so that a
    reader sees the old content or the new; after an error, the old. Its
    folder is made if need be. Raises InputError where it cannot be written,
    or may not be: see :func:`check_output`.

    Example
    -------
    >>> tmp = getfixture("tmp_path")
    >>> with atomic_write(tmp / "a.txt") as file:
    ...     _ = file.write("whole")
    >>> (tmp / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    text = {} if "b" in mode else _TEXT
    _check_kind(path, stat.S_ISREG)
    with _written(path), _aside(path, _new_file) as temporary:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)


@contextlib.contextmanager
def growing_file(path):
    """Open a file for text that others may read while it grows.

    Yields a function that adds text. The file's folder is made if need be.
    Raises InputError, which names the file, where it cannot be written.

    Example
    -------
    >>> path = getfixture("tmp_path") / "new" / "a.txt"
    >>> with growing_file(path) as add:
    ...     add("first")
    ...     path.read_text()
    'first'
    """
    path = Path(path)
    _check_kind(path, stat.S_ISREG)
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", **_TEXT)

    def add(text):
        """Write it, for others to see."""
        with _written(path):
            file.write(text)
            file.flush()

    try:
        yield add
    finally:
        with _written(path):
            file.close()


@contextlib.contextmanager
def replaced_folder(folder):
    """Make a folder that takes its name, or another's place, when complete.

    Yields the folder to fill, beside the final one; its files are flushed to
    the disk before it is renamed. Raises InputError where it cannot be
    written, or what has its name is a link or no folder.

    Example
    -------
    >>> tmp = getfixture("tmp_path")
    >>> with replaced_folder(tmp / "a") as folder:
    ...     _ = (folder / "b.txt").write_text("whole")
    >>> [path.name for path in (tmp / "a").iterdir()]
    ['b.txt']
    """
    folder = Path(folder)
    _check_kind(folder, stat.S_ISDIR)
    with _written(folder), _aside(folder, tempfile.mkdtemp) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _place(temporary, folder)


def restore_folder(folder):
    """Give a folder its name back that a killed :func:`replaced_folder` took.

    To be called before the folder is read. Only where the system cannot swap
    two names in one step is there a moment in which neither has it.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError):
        for old in [] if folder.exists() else _beside(folder, _OLD):
            old.rename(folder)


def check_output(path, *inputs):
    """Raise InputError where a file cannot or may not be written.

    To be called before the work whose result it is to hold. A device, a pipe,
    a link or a folder is never replaced, nor is one of the ``inputs``.

    Example
    -------
    >>> check_output("a.csv", "b.csv")
    >>> check_output("a.csv", "./a.csv")
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: a.csv cannot be written: it is ...
    """
    path = Path(path)
    _check_kind(path, stat.S_ISREG)
    if any(os.path.realpath(path) == os.path.realpath(each) for each in inputs):
        raise InputError(
            f"{path} cannot be written: it is an input as well; give another "
            "name."
        )
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written: {folder} is no folder that may be "
            "written to; choose another place."
        )


def check_outputs(paths, *inputs):
    """The same of several, some of which may be None, and of each other.

    Example
    -------
    >>> check_outputs(["a.csv", None, "b.csv"], "c.csv")
    >>> check_outputs(["a.csv", "./a.csv"])
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: ./a.csv is to be written twice; ...
    """
    known = set()
    for path in filter(None, paths):
        check_output(path, *inputs)
        if os.path.realpath(path) in known:
            raise InputError(
                f"{path} is to be written twice; give each output a name of its "
                "own."
            )
        known.add(os.path.realpath(path))


def is_plain_file(path):
    """Whether there is such a file.

    Raises InputError for what has its name but cannot be read as one: a
    folder, a device, or a pipe, on which a reader would wait for ever.
    """
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not stat.S_ISREG(kind):
        raise InputError(f"{path} is {_kind(kind)} and not a file.")
    return True


def spreadsheet_cell(text):
    """Text for a CSV that people open: never taken for a formula.

    Example
    -------
    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("ann")
    ("'=1+1", 'ann')
    """
    return f"'{text}" if _FORMULA.match(text) else text


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
    while True:
        with _written(path):
            # For writing, as locks on network file systems demand.
            file = open(path, "rb+")
        with file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            with _written(path):
                there = os.stat(path)
            # Another one, where its folder has been replaced meanwhile.
            if os.path.samestat(os.fstat(file.fileno()), there):
                yield
                return


@contextlib.contextmanager
def _aside(path, make):
    """A new file or folder beside a path, to be renamed to it.

    It is locked until the process ends, so that :func:`_sweep` of another one
    leaves it alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    # Else tempfile takes the .. of link/../a for the folder of the link.
    folder = os.path.realpath(path.parent)
    while True:
        new = make(dir=folder, prefix=f".{path.name}.", suffix=_NEW)
        lock = _lock(new, wait=True)
        if os.path.exists(new):  # not swept before it was locked
            break
    try:
        yield Path(new)
    finally:
        _remove(Path(new))  # which after an exchange is the old folder
        if lock is not None:
            os.close(lock)


def _new_file(**place):
    handle, name = tempfile.mkstemp(**place)
    os.close(handle)
    return name


def _sweep(path):
    """Remove what killed processes that wrote a path have left beside it."""
    restore_folder(path)
    with contextlib.suppress(OSError):
        for old in _beside(path, _OLD):
            _remove(old)
        for new in _beside(path, _NEW):
            lock = _lock(new, wait=False)
            if lock is not None:
                _remove(new)
                os.close(lock)


def _beside(path, suffix):
    ours = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}{re.escape(suffix)}")
    return [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]


def _lock(path, wait):
    """A handle that locks a file or folder, or None where there is none."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process has it, or the system knows no locks
        os.close(handle)
        return None
    return handle


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _written(path):
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}."
        ) from error


def _check_kind(path, is_right):
    """Refuse to replace anything of another kind, and links."""
    try:
        kind = os.lstat(path).st_mode
    except (OSError, ValueError):  # writing it will say so
        return
    if not is_right(kind):
        raise InputError(
            f"{path} cannot be written: it is {_kind(kind)}; give another name."
        )


def _kind(mode):
    names = {
        stat.S_ISLNK: "a link",
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISREG: "a file",
    }
    return next((n for is_it, n in names.items() if is_it(mode)), "a device")


def _place(source, folder):
    """Flush a finished folder and give it its name, in place of an old one."""
    for path in [*source.rglob("*"), source]:
        if path.is_dir() or path.is_file():
            _flush(path)
    # A folder cannot be renamed over one that has files in it.
    if not folder.exists():
        source.rename(folder)
    elif not _exchange(source, folder):
        old = source.with_suffix(_OLD)
        folder.rename(old)
        try:
            source.rename(folder)
        except BaseException:
            restore_folder(folder)
            raise
        _remove(old)
    _flush(folder.parent)


def _exchange(first, second):
    """Swap two names in one step; False where that is not possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = os.fsencode(first), os.fsencode(second)
    return rename(here, names[0], here, names[1], exchange) == 0


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
