"""Tables of errors: those that runs leave, and those that were published."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amsincnet_sb.utils.errors import InputError

__all__ = [
    "PublishedCurve",
    "published_curves",
    "read_margins",
    "read_sentences",
]

CURVES = Path(__file__).parents[1] / "data" / "published_curves.csv"
ERRORS = "frame_error", "sentence_error"


def read_sentences(path):
    """The rows of a ``sentences.csv``, dictionaries of text."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"a row of another length: {row}")
            row["speaker"], row["decision"]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as the sentences.csv of a run "
            f"({error!r}); evaluate the model again."
        ) from error
    if not rows:
        raise InputError(f"{path} lists no utterance.")
    return rows


def read_margins(table):
    """Recipe -> margin (None where it has none) -> list of error pairs."""
    recipes = {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                errors = tuple(float(row[key]) for key in ERRORS)
                margin = float(row["margin"]) if row["margin"] else None
                if not np.isfinite([margin or 0.0, *errors]).all():
                    raise ValueError("a value is not finite")
                runs = recipes.setdefault(str(row["recipe"]), {})
                runs.setdefault(margin, []).append(errors)
        for name, runs in recipes.items():
            if None in runs and len(runs) > 1:
                raise ValueError(f"{name} has rows with and without margin")
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{table} cannot be read as the table of a sweep ({error!r}); it "
            "must have the columns recipe, margin, seed, frame_error and "
            "sentence_error."
        ) from error
    return recipes


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
    rows = np.nan_to_num(np.genfromtxt(CURVES, delimiter=",", skip_header=4))
    rows[:, [4, 6, 7]] *= 100
    curves = {}
    for margin in np.unique(rows[:, 1]).tolist():
        run = {row[2]: row[2:] for row in rows[rows[:, 1] == margin]}
        columns = zip(*(run[epoch] for epoch in sorted(run)))
        curves[margin or None] = PublishedCurve(*map(np.array, columns))
    return curves
