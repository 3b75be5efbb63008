"""Scores and errors of verification: cosines, EER, minimum cost, DET curve.

A trial is a pair of recordings with a score; it is accepted where the score
exceeds a threshold. A miss is a rejected target trial (the same speaker), a
false alarm an accepted non-target trial. Everything is sorted once, so that
millions of trials take seconds. Functions of trials raise InputError where
there is no target or no non-target trial, or a score is NaN.
"""

import torch
import torch.nn.functional as F

from amsincnet_sb.utils.errors import InputError

__all__ = ["MIN_COHORT", "compare", "det_points", "eer", "min_dcf"]

MIN_COHORT = 3  # speakers; fewer have no spread to speak of


def compare(directions, first, second, cohort=None):
    """Score trials by cosine, normalised against a cohort if there is one.

    A cosine is high for two recordings that resemble everybody, noisy ones for
    example. Adaptive symmetric normalisation measures it against the cosines
    of either recording with those speakers of a cohort that it resembles most:
    P. Matějka et al., "Analysis of score normalization in multilingual speaker
    recognition", Interspeech 2017.

    ``directions``, ``[recordings, embedding_size]``, are means over windows of
    embeddings of length one; ``first`` and ``second``, ``[trials]``, positions
    in them. Returns ``[trials]`` cosines. With a cohort, ``[speakers,
    embedding_size]``, it is by how many standard deviations they exceed those
    with its nearest fifth (at least five speakers), averaged over the two
    recordings.

    Example
    -------
    >>> a, b = torch.tensor([0]), torch.tensor([1])
    >>> directions = torch.tensor([[2.0, 0.0], [0.6, 0.8]])
    >>> compare(directions, a, b)
    tensor([0.6000])
    >>> cohort = torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    >>> round(compare(directions, a, b, cohort).item(), 2)
    0.57
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


def error_rates(scores, labels):
    """Miss and false-alarm rates at every threshold that makes a difference.

    ``scores`` are ``[trials]``, and so are ``labels``, which are not 0 for
    target trials. Returns the thresholds, ascending (every score and the
    middle between neighbours), and both rates at each, from 0 to 1.
    """
    scores = torch.as_tensor(scores)
    labels = torch.as_tensor(labels).bool()
    targets = scores[labels].sort().values
    others = scores[~labels].sort().values
    if not len(targets) or not len(others):
        raise InputError(
            f"There are {len(targets)} target and {len(others)} non-target "
            "trials, but at least one of each is needed."
        )
    if scores.isnan().any():
        raise InputError("The scores of the trials contain NaN.")
    thresholds = scores.unique()
    middles = (thresholds[:-1] + thresholds[1:]) / 2
    thresholds = torch.cat([thresholds, middles]).sort().values
    below = [
        torch.searchsorted(group, thresholds, right=True).float()
        for group in (targets, others)
    ]
    miss = below[0] / len(targets)
    false_alarm = (len(others) - below[1]) / len(others)
    return thresholds, miss, false_alarm


def eer(scores, labels):
    """Equal error rate, as ``speechbrain.utils.metric_stats.EER``.

    SpeechBrain compares every score with every threshold, O(N²); this sorts.

    Returns the rate, from 0 to 1 (the mean of the miss and the false-alarm
    rate where they are closest), and the lowest threshold where they are.

    Example
    -------
    >>> eer(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    (0.5, 0.3499999940395355)
    """
    thresholds, miss, false_alarm = error_rates(scores, labels)
    gap = (false_alarm - miss).abs()
    closest = (gap == gap.min()).nonzero().squeeze(1)
    # SpeechBrain rounds a candidate's gap to float32 but not that of the best
    # so far, so that equal gaps may replace each other until one is exact.
    exact = (false_alarm[closest].double() - miss[closest].double()).abs()
    kept = (exact <= gap.min()).nonzero().squeeze(1)
    best = closest[kept[0]] if len(kept) else closest[-1]
    rate = (false_alarm[best].item() + miss[best].item()) / 2
    return rate, thresholds[best].item()


def min_dcf(scores, labels, p_target=0.01):
    """Minimum of the normalised detection cost of NIST's evaluations.

    ``(p_target · miss + (1 − p_target) · false alarm) / min(p_target, 1 −
    p_target)``: 1 is the cost of accepting or rejecting everything.
    SpeechBrain's ``minDCF`` is the same without the division, O(N²).

    Returns the minimum over thresholds, at most 1, and the threshold where it
    is, minus infinity where accepting everything is best.

    Example
    -------
    >>> min_dcf(torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1]))
    (0.5, 0.4000000059604645)
    """
    thresholds, miss, false_alarm = error_rates(scores, labels)
    accept_all = thresholds.new_tensor([-torch.inf])
    thresholds = torch.cat([accept_all, thresholds])
    miss = torch.cat([miss.new_zeros(1), miss]).double()
    false_alarm = torch.cat([false_alarm.new_ones(1), false_alarm]).double()
    costs = p_target * miss + (1 - p_target) * false_alarm
    cost, best = (costs / min(p_target, 1 - p_target)).min(0)
    return cost.item(), thresholds[best].item()


def det_points(scores, labels, resolution=0.02):
    """Thin the DET curve out to the points that a plot can show.

    Neighbouring points differ by at least ``resolution`` along either axis, in
    standard deviations of a normal distribution (the scale of DET plots).
    Returned are two lists of rates, misses and false alarms, for ascending
    thresholds.

    Example
    -------
    >>> det_points(torch.tensor([0.25, 0.75]), torch.tensor([0, 1]))
    ([0.0, 1.0], [0.0, 0.0])
    """
    _, miss, false_alarm = error_rates(scores, labels)
    rates = torch.stack([miss, false_alarm]).double()
    normal = torch.special.ndtri(rates.clamp(1e-9, 1 - 1e-9))
    cells = (normal / resolution).round()
    new = (cells[:, 1:] != cells[:, :-1]).any(0)
    keep = torch.cat([new.new_ones(1), new])
    miss, false_alarm = rates[:, keep].tolist()
    return miss, false_alarm
