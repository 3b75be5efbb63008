"""The learning curves published with AM-SincNet, to compare with."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["PublishedCurve", "published_curves"]

FILE = Path(__file__).parent / "data" / "published_curves.csv"


class PublishedCurve(NamedTuple):
    """A published run on TIMIT: ``[evaluations]``, errors in per cent."""

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

    Returns margin -> :class:`PublishedCurve`, margins ascending; first, under
    None, SincNet with plain softmax. Of an epoch that was run again after an
    interruption, the second run counts.

    Example
    -------
    >>> curves = published_curves()
    >>> print(len(curves), curves[None].sentence_error.min().round(2))
    20 0.72
    """
    rows = np.nan_to_num(np.genfromtxt(FILE, delimiter=",", skip_header=4))
    rows[:, [4, 6, 7]] *= 100
    curves = {}
    for margin in np.unique(rows[:, 1]).tolist():
        run = {row[2]: row[2:] for row in rows[rows[:, 1] == margin]}
        columns = zip(*(run[epoch] for epoch in sorted(run)))
        curves[margin or None] = PublishedCurve(*map(np.array, columns))
    return curves
