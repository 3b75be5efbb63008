"""The learning curves published with AM-SincNet, to compare with."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["PublishedCurve", "published_curves"]

_FILE = Path(__file__).parent / "data" / "published_curves.csv"


class PublishedCurve(NamedTuple):
    """One published training run on TIMIT (462 speakers).

    Each array is ``[evaluations]``; errors are in per cent, as in
    ``metrics.jsonl``.
    """

    epoch: np.ndarray
    train_loss: np.ndarray
    train_frame_error: np.ndarray
    test_loss: np.ndarray
    frame_error: np.ndarray
    sentence_error: np.ndarray


def published_curves():
    """The 20 learning curves in the repository of AM-SincNet.

    J. Nunes, D. Macêdo and C. Zanchettin, "Additive margin SincNet for
    speaker recognition", IJCNN 2019, https://arxiv.org/abs/1901.10826. The
    loss behind the 19 margins is
    :class:`amsincnet_sb.nnet.losses.ReleasedAMSoftmax`.

    Returns
    -------
    dict
        Margin -> :class:`PublishedCurve`, margins ascending; first, under
        None, SincNet with plain softmax. An epoch that was run again after
        an interruption counts as it came out the second time.

    Example
    -------
    >>> curves = published_curves()
    >>> print(len(curves), curves[None].sentence_error.min().round(2))
    20 0.72
    >>> print((curves[0.5].train_loss[-1] - 30 * 0.5).round(1))
    3.5
    """
    runs = {}
    with open(_FILE, newline="", encoding="utf-8") as file:
        lines = (line for line in file if not line.startswith("#"))
        for row in csv.DictReader(lines):
            margin = float(row["margin"]) if row["margin"] else None
            epoch = int(row["epoch"])
            runs.setdefault(margin, {})[epoch] = (
                epoch,
                float(row["train_loss"]),
                100 * float(row["train_frame_error"]),
                float(row["test_loss"]),
                100 * float(row["test_frame_error"]),
                100 * float(row["test_sentence_error"]),
            )
    order = sorted(runs, key=lambda margin: -1 if margin is None else margin)
    return {
        margin: PublishedCurve(
            *(np.array(v) for v in zip(*sorted(runs[margin].values())))
        )
        for margin in order
    }
