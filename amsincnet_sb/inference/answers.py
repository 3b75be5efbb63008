"""What a model answers about a recording."""

import math
from numbers import Real
from typing import NamedTuple

import torch

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.names import UNKNOWN

__all__ = ["Analysis", "Candidate", "Verification", "check_number", "ranked"]


class Candidate(NamedTuple):
    """A speaker whom a recording may be of.

    ``score`` is the mean log-posterior over the windows, by which speakers are
    ranked (0 at best), as in training. ``probability`` is the mean posterior,
    that of a window drawn at random, and at most that of the candidate before:
    from 0 to 1, at most 1 in sum. Both are None for ``"unknown"``.

    The two means need not agree. A speaker who is impossible in a few windows
    has a low score and may still have a high mean posterior; so may the third
    of a list, which is what the limit is for. The mean of the logarithms makes
    fewer mistakes, and the mean posterior tells unknown speakers better.
    """

    speaker: str
    score: float | None
    probability: float | None

    @property
    def share(self) -> float | None:
        """The probability, by its name in version 0.1.0."""
        return self.probability


class Verification(NamedTuple):
    """The score of two recordings, and whether it exceeds the threshold."""

    score: float
    accepted: bool


class Analysis(NamedTuple):
    """Means over the windows of a recording.

    ``scores`` (log-posteriors) and ``posteriors`` are ``[speakers]``;
    ``embedding`` (the d-vector) and ``direction`` (the same of embeddings
    scaled to length one) are ``[embedding_size]``.
    """

    scores: torch.Tensor
    posteriors: torch.Tensor
    embedding: torch.Tensor
    direction: torch.Tensor


def ranked(speakers, analysis, top_k, threshold=None):
    """The best ``top_k`` Candidates of an Analysis, the best first.

    With a threshold that the best one's probability does not exceed, the
    first is ``"unknown"``.

    Example
    -------
    >>> posteriors = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.399, 0.001]])
    >>> means = posteriors.log().mean(0), posteriors.mean(0)
    >>> analysis = Analysis(*means, None, None)
    >>> found = ranked(["ann", "bob", "cat"], analysis, 3)
    >>> [(c.speaker, round(c.probability, 2)) for c in found]
    [('ann', 0.6), ('bob', 0.25), ('cat', 0.15)]
    """
    # Stable: of equal scores, the first speaker's comes first.
    scores, order = analysis.scores.sort(descending=True, stable=True)
    limited = analysis.posteriors[order].cummin(0).values
    names = [speakers[i] for i in order[:top_k].tolist()]
    columns = names, scores.tolist(), limited.tolist()
    found = [Candidate(*row) for row in zip(*columns)]
    if threshold is not None and not found[0].probability > threshold:
        found = [Candidate(UNKNOWN, None, None), *found][:top_k]
    return found


def check_number(name, value):
    """Raise InputError for a value that is neither None nor a finite number."""
    number = isinstance(value, Real) and math.isfinite(value)
    if value is not None and not number:
        raise InputError(f"{name} is {value!r} but must be a number.")
