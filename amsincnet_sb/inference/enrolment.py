"""What is kept beside a model: calibration, cohort and enrolled speakers.

Nothing in these files is executed when they are read.
"""

import json
import math

import numpy as np
import torch

from amsincnet_sb.inference.score_norm import MIN_COHORT
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = [
    "merge_enrolled",
    "read_calibration",
    "read_cohort",
    "read_enrolled",
    "write_calibration",
    "write_enrolled",
]

TASKS = ("verification", "identification")
CALIBRATION, COHORT = "calibration.json", "cohort.npz"
ENROLLED = "enrolled.npz"


def read_calibration(folder):
    """The thresholds that ``amsincnet evaluate --calibrate`` has found.

    Arguments
    ---------
    folder : Path
        Of the model.

    Returns
    -------
    dict
        By task; empty if it never was calibrated.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return {}
    try:
        calibration = json.loads(path.read_text(encoding="utf-8"))
        if not set(calibration) <= set(TASKS):
            raise ValueError("unknown task")
        for task in calibration.values():
            numbers = task["threshold"], task.get("own_cosine", 0.0)
            if not all(map(math.isfinite, numbers)):
                raise ValueError("a threshold that is no number")
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as e:
        raise InputError(
            f"{path} does not hold thresholds ({e}); remove it and run "
            "amsincnet evaluate --calibrate."
        ) from e
    return calibration


def read_cohort(folder, size):
    """Directions of speakers against whom verification measures.

    Arguments
    ---------
    folder : Path
        Of the model.
    size : int
        Numbers of an embedding.

    Returns
    -------
    torch.Tensor or None
        ``[speakers, size]``; None if there is no cohort.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    path = folder / COHORT
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors = file["vectors"]
        good = _are_vectors(vectors, size) and len(vectors) >= MIN_COHORT
        if not good:
            raise ValueError(f"not one vector of {size} numbers a speaker")
    except Exception as error:
        # Whatever a damaged file makes numpy and zipfile raise.
        raise InputError(
            f"{path} does not hold a cohort of this model ({error}); remove "
            "it and run amsincnet evaluate --calibrate."
        ) from error
    return torch.from_numpy(vectors)


def write_calibration(folder, calibration, cohort):
    """Write what :func:`read_calibration` and :func:`read_cohort` read.

    Arguments
    ---------
    folder : Path
        Of the model.
    calibration : dict
        May be empty.
    cohort : torch.Tensor or None
        ``[speakers, size]``.

    Raises
    ------
    InputError
        If a file cannot be written; it is as it was then.
    """
    if cohort is not None:
        with atomic_write(folder / COHORT, "wb") as file:
            np.savez(file, vectors=cohort.float().numpy())
    if calibration:
        with atomic_write(folder / CALIBRATION) as file:
            json.dump(calibration, file, indent=1)


def read_enrolled(folder, size):
    """Class vectors of the speakers who were enrolled.

    Arguments
    ---------
    folder : Path
        Of the model.
    size : int
        Numbers of an embedding.

    Returns
    -------
    dict
        Name -> ``[size]``.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    path = folder / ENROLLED
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file["speakers"].tolist()
            vectors = file["vectors"]
        good = (
            _are_vectors(vectors, size)
            and len(set(names)) == len(names) == len(vectors)
            and all(type(name) is str for name in names)
        )
        if not good:
            raise ValueError(f"not one vector of {size} numbers a name")
    except Exception as error:
        # Whatever a damaged file makes numpy and zipfile raise.
        raise InputError(
            f"{path} does not hold enrolled speakers of this model ({error}); "
            "remove it and enrol them again."
        ) from error
    return dict(zip(names, torch.from_numpy(vectors)))


def write_enrolled(folder, enrolled, size):
    """Write what :func:`read_enrolled` reads.

    Arguments
    ---------
    folder : Path
        Of the model.
    enrolled : dict
        Name -> ``[size]``.
    size : int
        Numbers of an embedding.

    Raises
    ------
    InputError
        If the file cannot be written; it is as it was then.
    """
    if not enrolled and not (folder / ENROLLED).exists():
        return
    vectors = np.zeros((len(enrolled), size), np.float32)
    for row, vector in zip(vectors, enrolled.values()):
        row[:] = vector
    with atomic_write(folder / ENROLLED, "wb") as file:
        np.savez(
            file,
            speakers=np.array(list(enrolled), dtype=np.str_),
            vectors=vectors,
        )


def merge_enrolled(folder, size, before, ours):
    """Our changes of the enrolled speakers on top of other processes'.

    Arguments
    ---------
    folder, size
        See :func:`read_enrolled`, which tells how they are now.
    before : dict
        Name -> vector, as they were when the model was loaded.
    ours : dict
        As they are in it.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a speaker has been changed by both.
    """
    found = read_enrolled(folder, size)
    for name in {**before, **ours}:
        new, old = ours.get(name), before.get(name)
        if new is old:
            continue
        theirs = found.get(name)
        if (theirs is None) != (old is None) or (
            theirs is not None and not torch.equal(theirs, old)
        ):
            raise InputError(
                f"{folder}: the speaker {name!r} has been changed by another "
                "process in the meantime; do it again."
            )
        found.pop(name, None)
        if new is not None:
            found[name] = new
    return found


def _are_vectors(array, size):
    """Whether its rows are vectors of so many numbers, all finite."""
    return (
        array.ndim == 2
        and array.shape[1] == size
        and array.dtype == np.float32
        and np.isfinite(array).all()
    )
