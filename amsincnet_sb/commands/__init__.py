"""The commands of ``amsincnet``: a function each, whose docstring is the help.

Each imports what it needs when it runs, so that ``--help`` does not wait.
"""

from amsincnet_sb.commands import models, scores, segments, training

__all__ = ["models", "scores", "segments", "training"]
