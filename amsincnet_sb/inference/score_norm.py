"""Scores of verification that mean the same for every recording.

A cosine is high for two recordings that resemble everybody, noisy ones for
example. Adaptive symmetric normalisation measures it against the cosines of
either recording with those speakers of a cohort that it resembles most:
P. Matějka et al., "Analysis of score normalization in multilingual speaker
recognition", Interspeech 2017.
"""

import torch
import torch.nn.functional as F

__all__ = ["MIN_COHORT", "compare"]

MIN_COHORT = 3  # speakers; fewer have no spread to speak of


def compare(directions, first, second, cohort=None):
    """Scores of trials.

    Arguments
    ---------
    directions : torch.Tensor
        ``[recordings, embedding_size]``, mean directions of the windows'
        embeddings, of any length.
    first, second : torch.Tensor
        ``[trials]``, positions in ``directions``.
    cohort : torch.Tensor, optional
        ``[speakers, embedding_size]``, one direction a speaker.

    Returns
    -------
    torch.Tensor
        ``[trials]``: cosines. With a cohort, by how many standard deviations
        they exceed those with the nearest fifth of the cohort (at least five
        speakers), averaged over the two recordings.

    Example
    -------
    >>> a, b = torch.tensor([0]), torch.tensor([1])
    >>> directions = torch.tensor([[2.0, 0.0], [0.6, 0.8]])
    >>> compare(directions, a, b)
    tensor([0.6000])
    >>> cohort = torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    >>> [
    ...     round(score, 2)
    ...     for score in compare(directions, a, b, cohort).tolist()
    ... ]
    [0.57]
    """
    directions = F.normalize(directions, dim=-1)
    # In pieces: a million pairs of d-vectors would not fit.
    scores = torch.cat(
        [
            (directions[a] * directions[b]).sum(-1)
            for a, b in zip(first.split(4096), second.split(4096))
        ]
    )
    if cohort is None:
        return scores
    nearest = min(len(cohort), max(5, len(cohort) // 5))
    cosines = directions @ F.normalize(cohort, dim=-1).T
    top = cosines.topk(nearest, dim=-1).values
    mean, std = top.mean(-1), top.std(-1).clamp(min=1e-6)
    sides = [(scores - mean[side]) / std[side] for side in (first, second)]
    return (sides[0] + sides[1]) / 2
