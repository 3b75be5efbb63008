"""Names that are nobody's."""

import re

__all__ = ["UNKNOWN", "is_unknown"]

UNKNOWN = "unknown"  # the answer where no speaker of the model fits


def is_unknown(name):
    """Whether a name is that of a voice that nobody knows.

    Example
    -------
    >>> [is_unknown(name) for name in ("unknown", "unknown 2", "unknown woman")]
    [True, True, False]
    """
    return re.fullmatch(rf"{UNKNOWN}( \d+)?", name) is not None
