"""The one exception a user is meant to read."""

import contextlib
import sys

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

    #: True in a process whose neighbour says the same.
    told_elsewhere = False


@contextlib.contextmanager
def exit_on_input_error():
    """End a program on an :class:`InputError` as a user expects.

    The sentence goes to the standard error, without a traceback, and the
    exit status is 2.

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
    """Blame a file for the values that the objects made from it refuse.

    Arguments
    ---------
    where : str
        The hyperparameter file.

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
        raise InputError(f"{where}: it is not what it should be.") from error
    except (ValueError, TypeError, ImportError) as error:
        reason = ": ".join(str(arg).strip() for arg in error.args)
        raise InputError(f"{where}: {reason}") from error
