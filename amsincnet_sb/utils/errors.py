"""The one exception a user is meant to read."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what is wrong, where (file, line, key) and
    what to do about it. Programs print it without a traceback and exit with
    status 2.

    Example
    -------
    >>> raise InputError("margin is 1.5 but must lie in [0, 1).")
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: margin is 1.5 but must lie in [0, 1).
    """
