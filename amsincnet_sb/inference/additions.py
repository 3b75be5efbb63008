"""What people add to a trained model: enrolled speakers, thresholds, a cohort.

They are kept in files beside it, ``enrolled.npz``, ``calibration.json`` and
``cohort.npz``: arrays without pickles, and JSON. Nothing in them is executed
when they are read. Each says by ``weights``, a :func:`fingerprint`, which
weights it was made with (files of version 0.2.0 and before do not, and count
as made with those beside them). With other weights it means nothing: it is
kept, and not used.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import shutil
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

from amsincnet_sb.inference.enrolment import MOST_PROTOTYPES, Enrolled
from amsincnet_sb.inference.scoring import MIN_COHORT
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, exclusive, is_plain_file
from amsincnet_sb.utils.reading import read_arrays, read_json

__all__ = [
    "CALIBRATION",
    "COHORT",
    "ENROLLED",
    "MARK",
    "Additions",
    "carry_over",
    "cohort_digest",
    "fingerprint",
    "read_additions",
    "save_additions",
    "update_additions",
]

logger = logging.getLogger(__name__)

ENROLLED, COHORT = "enrolled.npz", "cohort.npz"
CALIBRATION = "calibration.json"
TASKS = ("verification", "identification", "segments")
AGAIN = {
    ENROLLED: "enrol them again",
    CALIBRATION: "run amsincnet evaluate --calibrate",
    COHORT: "run amsincnet evaluate --calibrate --cohort",
}
MARK = "weights"
OF_COHORT = "cohort"  # of thresholds: which one they were found with
# Class vectors of enrolled speakers are at most 20 long, directions 1; the
# mean output of a plain softmax is a log-probability.
LARGEST_VALUE = 1000.0


class Additions(NamedTuple):
    """Additions to a model, each kept in a file beside it."""

    enrolled: dict  # name -> Enrolled
    calibration: dict  # task -> threshold, and how it was found
    cohort: torch.Tensor | None  # [speakers, embedding_size], directions
    outdated: dict = {}  # name of a file made with other weights -> sentence


def fingerprint(*modules):
    """A text that is the same for modules with the same weights, bit by bit."""
    digest = hashlib.sha256()
    for module in modules:
        for key, tensor in module.state_dict().items():
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {[*tensor.shape]}".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def read_additions(folder, size, weights):
    """The Additions in a model's folder, or InputError for a damaged file.

    ``size`` is that of an embedding; ``weights`` is a function that returns
    the model's fingerprint, which is asked where a file has one.
    """
    found, outdated = {}, {}
    weights = functools.cache(weights)  # it reads all of them
    for name in AGAIN:
        found[name], mark = _read(folder / name, size, weights)
        if mark is not None:
            outdated[name] = _outdated(folder / name, found[name])
            found[name] = None
    calibration = found[CALIBRATION] or {}
    cohort = calibration.pop(OF_COHORT, None)
    if COHORT not in outdated and cohort not in (
        None,
        cohort_digest(found[COHORT]),
    ):
        outdated[CALIBRATION] = (
            f"{folder / CALIBRATION}: its threshold was found with another "
            f"cohort than {COHORT} has now, if any; {AGAIN[CALIBRATION]}."
        )
        calibration = {}
    # A cohort without a threshold found with it would be of no use.
    if "verification" not in calibration:
        found[COHORT] = None
    return Additions(
        found[ENROLLED] or {}, calibration, found[COHORT], outdated
    )


def save_additions(folder, new, mark):
    """Write all of some Additions into a folder that is being made."""
    if new.enrolled:
        _write_enrolled(folder / ENROLLED, new.enrolled, mark)
    _write_calibration(folder, new, mark)


def update_additions(folder, new, old, mark, said):
    """Write what has changed; return the enrolled speakers.

    ``old`` are the Additions that were read, ``mark`` the fingerprint of the
    model's weights, ``said`` the one in its ``config.json`` when it was read,
    which is another where somebody has put weights there by hand. What other
    processes have written meanwhile stays; it is an InputError if one has
    changed the same speaker or replaced the model. What was made with other
    weights gets another name.
    """
    path = folder / ENROLLED
    with exclusive(folder / "config.json"):
        config = read_json(folder / "config.json", "train again")
        if config.get(MARK) != said:
            raise InputError(
                f"{folder}: the model has been replaced in the meantime; do it "
                "again with the new one."
            )
        there, other = _read(path, None, lambda: mark)
        there = {} if other is not None or there is None else there
        enrolled = _merge(folder, there, old.enrolled, new.enrolled)
        if enrolled.keys() != there.keys() or any(
            enrolled[name] is not there[name] for name in there
        ):
            _set_aside(path, other)
            _write_enrolled(path, enrolled, mark)
        changed = new.calibration != old.calibration
        if changed or new.cohort is not old.cohort:
            for name in (CALIBRATION, COHORT):
                content, other = _read(folder / name, None, lambda: mark)
                if (
                    name == COHORT
                    and content is not None
                    and new.cohort is None
                ):
                    other = other or mark  # it would be read with the others
                _set_aside(folder / name, other)
            _write_calibration(folder, new, mark)
    return enrolled


def carry_over(old, new, made, weights):
    """Copy what people have put beside a model to the one that replaces it.

    ``made`` are the names of files that are written anew. Additions without a
    mark get one by ``weights``, a function that returns the fingerprint of
    the old model.
    """
    for path in old.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        elif path.name not in made and (path.is_file() or path.is_symlink()):
            shutil.copy2(path, new / path.name, follow_symlinks=False)
    weights = functools.cache(weights)
    for name in AGAIN:
        path = new / name
        with contextlib.suppress(InputError):  # damaged: kept as it is
            if is_plain_file(path) and MARK not in (raw := _raw(path)):
                _write_raw(path, {**raw, MARK: weights()})


def _raw(path):
    """A file's content by key; InputError for whatever is wrong with it."""
    repair = f"remove it and {AGAIN[path.name]}"
    if path.name == CALIBRATION:
        return read_json(path, repair)
    try:
        return read_arrays(path)
    except Exception as error:
        raise _damaged(path, error) from error


def _write_raw(path, raw):
    if path.name == CALIBRATION:
        with atomic_write(path) as file:
            json.dump(raw, file, indent=1)
    else:
        with atomic_write(path, "wb") as file:
            np.savez(file, **raw)


def _damaged(path, error):
    content = {
        ENROLLED: "enrolled speakers of this model",
        CALIBRATION: "thresholds",
        COHORT: "a cohort of this model",
    }[path.name]
    return InputError(
        f"{path} does not hold {content} ({error}); remove it and "
        f"{AGAIN[path.name]}."
    )


def _read(path, size, weights):
    """What a file holds, None without one; a mark of other weights, or None."""
    if not is_plain_file(path):
        return None, None
    raw = _raw(path)
    try:
        mark = str(raw.pop(MARK)) if MARK in raw else None
        if mark is not None and mark == weights():
            mark = None
        if mark is not None:
            size = None  # as that of the other network
        return _PARSERS[path.name](raw, size), mark
    except Exception as error:
        # Whatever a damaged or hostile file makes NumPy raise.
        raise _damaged(path, error) from error


def _outdated(path, content):
    """The sentence about a file that was made with other weights."""
    what = "it was made"
    if path.name == ENROLLED:
        names = [*map(repr, content)]
        what = f"{', '.join(names[:20])} {'…' * (len(names) > 20)}".strip()
        what += " was enrolled" if len(names) == 1 else " were enrolled"
    return (
        f"{path}: {what} with other weights than the model has now; "
        f"{AGAIN[path.name]}, or move the file away."
    )


def _set_aside(path, mark):
    """Give a file that was made with other weights another name."""
    if mark is None:
        return
    for number in count(1):
        more = f"-{number}" * (number > 1)
        aside = path.with_name(f"{path.stem}-{mark[:8]}{more}{path.suffix}")
        if not os.path.lexists(aside):
            path.rename(aside)
            logger.warning("Note: what %s held is kept in %s.", path, aside)
            return


def _write_enrolled(path, enrolled, mark):
    if not enrolled:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    vectors, directions = zip(*enrolled.values())
    raw = {
        "speakers": np.array(list(enrolled), dtype=np.str_),
        "vectors": torch.cat(vectors).cpu().float().numpy(),
        "recordings": np.array([len(each) for each in directions]),
        "directions": torch.cat(directions).cpu().float().numpy(),
        MARK: mark,
    }
    if len(raw["vectors"]) > len(vectors):  # else as earlier versions do
        raw["prototypes"] = np.array([len(each) for each in vectors])
    _write_raw(path, raw)


def _write_calibration(folder, new, mark):
    if new.cohort is not None:
        vectors = new.cohort.cpu().float().numpy()
        _write_raw(folder / COHORT, {"vectors": vectors, MARK: mark})
    if new.calibration:
        more = {MARK: mark, OF_COHORT: cohort_digest(new.cohort)}
        _write_raw(folder / CALIBRATION, {**new.calibration, **more})


def cohort_digest(cohort):
    """What thresholds know their cohort by; empty without one."""
    if cohort is None:
        return ""
    return hashlib.sha256(cohort.cpu().float().numpy().tobytes()).hexdigest()


def _merge(folder, there, before, ours):
    """Our changes of the enrolled speakers on top of other processes'."""
    merged = dict(there)
    for name in {**before, **ours}:
        new, old = ours.get(name), before.get(name)
        if new is old:
            continue
        theirs = merged.pop(name, None)
        same = (theirs is None) == (old is None) and (
            old is None or torch.equal(theirs.vectors, old.vectors)
        )
        if not same:
            raise InputError(
                f"{folder}: the speaker {name!r} has been changed by another "
                "process in the meantime; do it again."
            )
        if new is not None:
            merged[name] = new
    return merged


def _thresholds(raw, size):
    if not isinstance(raw.get(OF_COHORT, ""), str):
        raise ValueError(f"{OF_COHORT} is no text")
    if not set(raw) <= {*TASKS, OF_COHORT}:
        raise ValueError("unknown task")
    for task in (raw[name] for name in TASKS if name in raw):
        for key, largest in (
            ("threshold", math.inf),
            ("own_cosine", LARGEST_VALUE),
        ):
            value = task[key] if key == "threshold" else task.get(key, 0.0)
            right = not isinstance(value, bool) and math.isfinite(value)
            if not right or abs(value) > largest:
                raise ValueError(f"{key} is {value!r}")
    weights = raw.get("segments", {}).get("certainty", [0.0] * 4)
    if len(weights) != 4 or not all(
        type(value) is float and abs(value) <= LARGEST_VALUE
        for value in weights
    ):
        raise ValueError(f"certainty is {weights!r}")
    return raw


def _cohort(raw, size):
    vectors = _vectors(raw, size)
    if len(vectors) < MIN_COHORT:
        raise ValueError(f"fewer than {MIN_COHORT} speakers")
    return vectors


def _enrolled(raw, size):
    names, vectors = raw["speakers"].tolist(), _vectors(raw, size)
    if len(set(names)) != len(names):
        raise ValueError("a name twice")
    if not all(type(name) is str and name.isprintable() for name in names):
        raise ValueError("names that are not text")
    # Not in files of earlier versions.
    prototypes = raw.get("prototypes", np.ones(len(names), int)).tolist()
    _check_counts(prototypes, names, vectors, 1, MOST_PROTOTYPES)
    counts, directions = [0] * len(names), vectors[:0]
    if "recordings" in raw:
        counts = raw["recordings"].tolist()
        directions = _vectors(raw, vectors.shape[1], "directions")
    _check_counts(counts, names, directions)
    parts = vectors.split(prototypes), directions.split(counts)
    return dict(zip(names, map(Enrolled, *parts)))


def _check_counts(counts, names, vectors, least=0, most=math.inf):
    """Each name must have a number of vectors, and none be left."""
    right = len(counts) == len(names) and all(
        type(number) is int and least <= number <= most for number in counts
    )
    if not right or sum(counts) != len(vectors):
        raise ValueError("other vectors than its names have")


_PARSERS = {ENROLLED: _enrolled, CALIBRATION: _thresholds, COHORT: _cohort}


def _vectors(raw, size, key="vectors"):
    array = raw[key]
    if (
        array.ndim != 2
        or (size is not None and array.shape[1] != size)
        or array.dtype != np.float32
        or not (np.abs(array) <= LARGEST_VALUE).all()
    ):
        raise ValueError(f"not finite float32 vectors of {size} dimensions")
    return torch.from_numpy(array)
