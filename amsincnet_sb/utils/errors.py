"""The one exception a user is meant to read."""

import contextlib
import sys
import traceback

__all__ = ["InputError", "exit_on_input_error", "as_input_error"]


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


@contextlib.contextmanager
def exit_on_input_error():
    """End a program on an :class:`InputError`: its sentence and status 2.

    Example
    -------
    >>> with exit_on_input_error():
    ...     raise InputError("This file is empty.")
    Traceback (most recent call last):
        ...
    SystemExit: 2
    """
    try:
        yield
    except InputError as error:
        sys.stdout.flush()
        if not error.told_elsewhere:
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


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


def _reason(error):
    return ": ".join(str(argument).strip() for argument in error.args)


def _came_through(error, package):
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = (frame.f_globals.get("__name__", "") for frame in frames)
    return any(name.partition(".")[0] == package for name in names)
