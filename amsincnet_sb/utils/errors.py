"""The one exception a user is meant to read, and how programs end."""

import contextlib
import difflib
import os
import select
import signal
import sys
import traceback

from amsincnet_sb.utils.clashes import clash

__all__ = [
    "InputError",
    "as_input_error",
    "did_you_mean",
    "exit_on_input_error",
]

# Exit statuses. 1 is left to answers: verify's no, a run of a sweep that
# failed. That of a stopped training is in training/signals.py.
WRONG = 2  # input, options, or a place that cannot be written
CRASHED = 70  # a bug: EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # by Ctrl-C
UNREAD = 141  # nobody reads the output any more, as in `... | head -1`


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what is wrong, where (file, line, key) and
    what to do about it.

    Example
    -------
    >>> raise InputError("margin is 1.5 but must lie between 0 and 1.")
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: margin is 1.5 but must lie ...
    """

    #: True where another process prints the same sentence.
    told_elsewhere = False


def did_you_mean(word, words, form="{}"):
    """The end of a sentence about a word that is none of some.

    Example
    -------
    >>> did_you_mean("margni", ["margin", "scale"]), did_you_mean("x", [])
    ('; did you mean margin?', '.')
    """
    near = difflib.get_close_matches(str(word), map(str, words), 1)
    return f"; did you mean {form.format(near[0])}?" if near else "."


@contextlib.contextmanager
def exit_on_input_error():
    """End a program as docs/reliability.md promises: a sentence, a status.

    For an :class:`InputError`, whatever the system refuses (``OSError``) and
    a lack of memory, it is a sentence and status 2; an interruption and an
    output that nobody reads have statuses of their own. Only a bug in code
    shows its traceback; with ``--debug`` on the command line, whatever the
    system refuses does too.

    Example
    -------
    >>> with exit_on_input_error():
    ...     raise InputError("This file is empty.")
    Traceback (most recent call last):
        ...
    SystemExit: 2
    """
    try:
        _open_streams()
        try:
            with _interruptible_imports():
                yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return
    except (Exception, KeyboardInterrupt) as error:
        unread = isinstance(error, BrokenPipeError) and _is_unread()
        lost = _finish_output()
        status = UNREAD if unread else _tell(error, lost)
    sys.exit(status)


@contextlib.contextmanager
def as_input_error(where):
    """Turn the errors of objects made from a yaml file into InputErrors.

    A ``TypeError`` that HyperPyYAML did not raise or pass on is a bug in
    code, not in the file, and keeps its traceback; with ``--debug`` on the
    command line, every ``TypeError`` does. ``where`` is the file.

    Example
    -------
    >>> with as_input_error("a.yaml"):
    ...     raise ValueError("margin is 3 but must be at most 1.")
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: a.yaml: margin is 3 but must be ...
    """
    try:
        yield
    except InputError:
        raise
    except (SyntaxError, UnicodeError) as error:
        raise InputError(
            f"{where}: its text or the Python it names cannot be read."
        ) from error
    except (ValueError, ImportError) as error:
        raise InputError(f"{where}: {_reason(error)}") from error
    except TypeError as error:
        if "--debug" in sys.argv or not _came_through(error, "hyperpyyaml"):
            raise
        raise InputError(
            f"{where}: {_reason(error).rstrip('.')}; --debug shows the "
            "traceback."
        ) from error


@contextlib.contextmanager
def _interruptible_imports():
    """Have Ctrl-C end a program that is importing something, too.

    Packages take whatever goes wrong in an import, an interruption too, for a
    sign that a part is not installed, and go on without it.
    """

    def interrupt(number, frame):
        """Raise KeyboardInterrupt, or end at once within an import."""
        while frame:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _finish_output()
                os._exit(_tell(KeyboardInterrupt()))
            frame = frame.f_back
        raise KeyboardInterrupt

    usual = signal.default_int_handler
    if signal.getsignal(signal.SIGINT) is usual:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, usual)


def _open_streams():
    """Have a standard error and output that take any text."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        raise InputError(
            "The standard output is closed; send it to a file, or to "
            f"{os.devnull}."
        )
    # A file's name need not be valid Unicode, nor a terminal know it.
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_unread():
    """Whether the reader of the standard output is gone."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has no poll
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    return False


def _finish_output():
    """Write what is left; the OSError if that is not possible."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python would try again at its exit, and complain.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
        return error
    return None


def _tell(error, lost=None):
    """Say what has happened, once; the exit status for it.

    ``lost`` is what keeps the standard output from being written.
    """
    status, sentence = WRONG, f"Error: {error}"
    clashing = "--debug" not in sys.argv and clash(error)
    if isinstance(error, InputError):
        if error.told_elsewhere:
            return status
    elif clashing:
        sentence = f"Error: {clashing}"
    elif isinstance(error, KeyboardInterrupt):
        status, sentence = INTERRUPTED, "Interrupted."
    elif isinstance(error, MemoryError):
        sentence = "Error: there is not enough memory."
    elif isinstance(error, OSError) and "--debug" not in sys.argv:
        reason = error.strerror or str(error) or type(error).__name__
        where = error.filename or "Reading or writing failed"
        if error.filename2:  # of a copy, and it may be either
            where = f"{where}, to {error.filename2}"
        if lost and (error.errno, error.filename) == (lost.errno, None):
            where = "The standard output cannot be written"
        sentence = f"Error: {where}: {reason}."
    else:
        sys.excepthook(type(error), error, error.__traceback__)
        return CRASHED
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
    return status


def _reason(error):
    return ": ".join(str(argument).strip() for argument in error.args)


def _came_through(error, package):
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = (frame.f_globals.get("__name__", "") for frame in frames)
    return any(name.partition(".")[0] == package for name in names)
