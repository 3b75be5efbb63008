"""Enrolled speakers, thresholds and cohort: additions to a trained model.

They are kept in files beside it, ``enrolled.npz``, ``calibration.json`` and
``cohort.npz``: arrays without pickles, and JSON. Nothing in them is executed
when they are read.
"""

import json
import math
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.inference.scoring import MIN_COHORT
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import (
    atomic_write,
    exclusive,
    is_plain_file,
    read_json,
)

__all__ = [
    "Additions",
    "EnrollableClassifier",
    "UNKNOWN",
    "read_additions",
    "write_additions",
]

UNKNOWN = "unknown"  # the answer where no speaker of the model fits

TASKS = ("verification", "identification")
CALIBRATION, COHORT = "calibration.json", "cohort.npz"
ENROLLED = "enrolled.npz"
CALIBRATE = "run amsincnet evaluate --calibrate"


class EnrollableClassifier(nn.Module):
    """A trained classifier to which speakers are added without training.

    ``trained`` maps ``[batch, 1, embedding_size]`` to ``[batch, 1, names]``.
    The class vectors of the enrolled speakers are multiplied by
    ``own_cosine``, the mean output of a trained speaker's windows for that
    speaker, so that all outputs are on one scale.

    Example
    -------
    >>> classify = EnrollableClassifier(CosineClassifier(2, 1), ["ann"], 2, 0.5)
    >>> classify.enroll("zoe", torch.tensor([[1.0, 0.0]]))
    >>> classify.speakers
    ['ann', 'zoe']
    >>> classify(torch.tensor([[[2.0, 0.0]]]))[0, 0, 1].item()
    0.5
    """

    def __init__(self, trained, names, embedding_size, own_cosine):
        super().__init__()
        self.trained = trained
        self.names = list(names)
        self.own_cosine = own_cosine
        weight = next(trained.parameters())
        self.register_buffer("vectors", weight.new_zeros(0, embedding_size))
        self.enrolled = {}

    @property
    def speakers(self):
        """Names by label: the trained speakers, then the enrolled ones."""
        return self.names + list(self.enrolled)

    def forward(self, embeddings):
        """``[batch, 1, embedding_size]`` -> ``[batch, 1, speakers]``."""
        outputs = self.trained(embeddings)
        if not self.enrolled:
            return outputs
        cosines = F.normalize(embeddings, dim=-1) @ self.vectors.T
        return torch.cat([outputs, self.own_cosine * cosines], dim=-1)

    def set_enrolled(self, enrolled):
        """Replace the enrolled speakers: name -> class vector."""
        self.enrolled = enrolled
        vectors = self.vectors.new_zeros(len(enrolled), self.vectors.shape[1])
        for row, vector in zip(vectors, enrolled.values()):
            row.copy_(vector)
        self.vectors = vectors

    def check_new(self, name):
        """Raise InputError if a speaker of that name cannot be enrolled."""
        if not isinstance(self.trained, CosineClassifier):
            raise InputError(
                "Speakers can be enrolled in a model with a CosineClassifier, "
                "but this one was trained with a plain softmax; it can embed "
                "and verify."
            )
        named = isinstance(name, str) and name.strip() and name.isprintable()
        if not named or name == UNKNOWN:
            raise InputError(f"{name!r} cannot be the name of a speaker.")
        if name in self.speakers:
            kind = "trained" if name in self.names else "enrolled"
            raise InputError(
                f"The model has a speaker {name!r} already ({kind}); take "
                "another name, or remove the enrolled one first."
            )

    def enroll(self, name, directions):
        """Add a speaker from the mean directions of recordings.

        Their mean is closer to its own windows, and to everybody else's, than
        a learned class vector is; so it is scaled until the windows of a
        recording score 1 on the mean of the others, on average.
        """
        several = len(directions) > 1
        others = directions.sum(0) - directions if several else directions
        own = (directions * F.normalize(others, dim=-1)).sum(-1).mean()
        if not own > 0.05:
            raise InputError(
                f"The recordings given for {name!r} have nothing in common; "
                "check that they are of one speaker."
            )
        vector = F.normalize(directions.mean(0), dim=0) / own
        self.set_enrolled({**self.enrolled, name: vector})

    def remove(self, name):
        """Remove an enrolled speaker, or raise InputError."""
        if name not in self.enrolled:
            known = ", ".join(map(repr, self.enrolled)) or "nobody"
            raise InputError(
                f"{name!r} is not an enrolled speaker of this model; enrolled "
                f"so far: {known}."
            )
        self.set_enrolled({k: v for k, v in self.enrolled.items() if k != name})


class Additions(NamedTuple):
    """Additions to a model, each kept in a file beside it."""

    enrolled: dict  # name -> class vector [embedding_size]
    calibration: dict  # task -> threshold, and how it was found
    cohort: torch.Tensor | None  # [speakers, embedding_size], directions


def read_additions(folder, size):
    """The Additions in a model's folder, or InputError for a damaged file.

    ``size`` is that of an embedding.
    """
    calibration = _read_calibration(folder / CALIBRATION)
    # A cohort without a threshold found with it would be of no use.
    cohort = None
    if "verification" in calibration:
        cohort = _read_cohort(folder / COHORT, size)
    return Additions(
        _read_enrolled(folder / ENROLLED, size), calibration, cohort
    )


def write_additions(folder, size, new, old=None):
    """Write what :func:`read_additions` reads; return the enrolled speakers.

    With ``old``, the Additions that were read, only what has changed since is
    written, on top of what other processes have written meanwhile; if one of
    them has changed the same speaker, it is an InputError.
    """
    enrolled, path = new.enrolled, folder / ENROLLED
    with exclusive(folder / "config.json"):
        changed = True
        if old:
            there = _read_enrolled(path, size)
            enrolled = _merge(folder, there, old.enrolled, enrolled)
            changed = (
                new.calibration != old.calibration
                or new.cohort is not old.cohort
            )
        if changed and new.cohort is not None:
            with atomic_write(folder / COHORT, "wb") as file:
                np.savez(file, vectors=new.cohort.float().numpy())
        if changed and new.calibration:
            with atomic_write(folder / CALIBRATION) as file:
                json.dump(new.calibration, file, indent=1)
        if enrolled or path.exists():
            vectors = np.zeros((len(enrolled), size), np.float32)
            for row, vector in zip(vectors, enrolled.values()):
                row[:] = vector
            names = np.array(list(enrolled), dtype=np.str_)
            with atomic_write(path, "wb") as file:
                np.savez(file, speakers=names, vectors=vectors)
    return enrolled


def _merge(folder, there, before, ours):
    """Our changes of the enrolled speakers on top of other processes'."""
    merged = dict(there)
    for name in {**before, **ours}:
        new, old = ours.get(name), before.get(name)
        if new is old:
            continue
        theirs = merged.pop(name, None)
        same = (theirs is None) == (old is None) and (
            old is None or torch.equal(theirs, old)
        )
        if not same:
            raise InputError(
                f"{folder}: the speaker {name!r} has been changed by another "
                "process in the meantime; do it again."
            )
        if new is not None:
            merged[name] = new
    return merged


def _read_calibration(path):
    if not is_plain_file(path):
        return {}
    calibration = read_json(path, f"remove it and {CALIBRATE}")
    with _reading(path, "thresholds", CALIBRATE):
        if not set(calibration) <= set(TASKS):
            raise ValueError("unknown task")
        for task in calibration.values():
            for value in (task["threshold"], task.get("own_cosine", 0.0)):
                if isinstance(value, bool) or not math.isfinite(value):
                    raise ValueError(f"{value!r} is not a finite number")
    return calibration


def _read_cohort(path, size):
    if not is_plain_file(path):
        return None
    with _reading(path, "a cohort of this model", CALIBRATE):
        with np.load(path, allow_pickle=False) as file:
            vectors = _vectors(file, size)
        if len(vectors) < MIN_COHORT:
            raise ValueError(f"fewer than {MIN_COHORT} speakers")
    return vectors


def _read_enrolled(path, size):
    if not is_plain_file(path):
        return {}
    with _reading(path, "enrolled speakers of this model", "enrol them again"):
        with np.load(path, allow_pickle=False) as file:
            names = file["speakers"].tolist()
            vectors = _vectors(file, size)
        if not len(set(names)) == len(names) == len(vectors):
            raise ValueError("not one vector per name")
        if not all(type(name) is str for name in names):
            raise ValueError("names that are not text")
    return dict(zip(names, vectors))


@contextmanager
def _reading(path, content, repair):
    """An InputError for whatever a damaged file raises."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{path} does not hold {content} ({error}); remove it and {repair}."
        ) from error


def _vectors(file, size):
    array = file["vectors"]
    if (
        array.ndim != 2
        or array.shape[1] != size
        or array.dtype != np.float32
        or not np.isfinite(array).all()
    ):
        raise ValueError(f"not finite float32 vectors of {size} dimensions")
    return torch.from_numpy(array)
