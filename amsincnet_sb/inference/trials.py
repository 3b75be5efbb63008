"""Scores of the trials in a list, for the tools of VoxCeleb and Kaldi."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from amsincnet_sb.dataio.kaldi import kaldi_rows
from amsincnet_sb.dataio.lists import text_lines
from amsincnet_sb.inference.additions import COHORT
from amsincnet_sb.inference.scoring import compare, eer, min_dcf
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = [
    "TrialList",
    "find_recordings",
    "read_trial_list",
    "score_trials",
    "write_scores",
]

KALDI = {"target": True, "nontarget": False}
VOXCELEB = {"1": True, "0": False}


class TrialList(NamedTuple):
    """Trials: pairs of names, and whether each is of one speaker.

    ``same`` is None for a list without labels; ``form`` "VoxCeleb", "Kaldi"
    or "unlabelled"; ``where`` the file and line of each.
    """

    pairs: list
    same: list | None
    form: str
    where: list


def read_trial_list(path):
    """Read a list of trials in one of three forms, which all lines have.

    VoxCeleb's ``1 a b`` and ``0 a b``, Kaldi's ``a b target`` and ``a b
    nontarget``, or ``a b`` without labels. InputError for anything else.

    Example
    -------
    >>> file = getfixture("tmp_path") / "trials"
    >>> _ = file.write_text("a b target\\na c nontarget\\n")
    >>> read_trial_list(file)[:3]
    ([('a', 'b'), ('a', 'c')], [True, False], 'Kaldi')
    """
    pairs, same, form, places = [], [], None, []
    for where, line in text_lines(path, "give a list of trials"):
        words = line.split()
        if len(words) == 3 and words[2] in KALDI:
            found, pair, label = "Kaldi", words[:2], KALDI[words[2]]
        elif len(words) == 3 and words[0] in VOXCELEB:
            found, pair, label = "VoxCeleb", words[1:], VOXCELEB[words[0]]
        elif len(words) == 2:
            found, pair, label = "unlabelled", words, None
        else:
            raise InputError(
                f"{where}: a trial is '1 a b' or '0 a b', 'a b target' or "
                "'a b nontarget', or 'a b'."
            )
        if form not in (None, found):
            raise InputError(
                f"{where}: this trial is {found} and those before are {form}; "
                "write all in one form."
            )
        form = found
        pairs.append(tuple(pair))
        same.append(label)
        places.append(where)
    if not pairs:
        raise InputError(f"{path}: it lists no trials.")
    labels = None if form == "unlabelled" else same
    return TrialList(pairs, labels, form, places)


def find_recordings(trials, data_folder):
    """Name -> path of each recording in a TrialList.

    A name is that of an utterance where the folder is Kaldi's (it has a
    wav.scp), or else a path in the folder. InputError for a name that is not
    in wav.scp, and where that means a part of a file.
    """
    folder = Path(data_folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give --data-folder.")
    names = dict.fromkeys(name for pair in trials.pairs for name in pair)
    if not (folder / "wav.scp").exists():
        return {name: os.path.join(folder, name) for name in names}
    rows = {row["id"]: (where, row) for where, row in kaldi_rows(folder)[0]}
    found = {}
    for name in names:
        where, row = rows.get(name, (folder / "wav.scp", None))
        if row is None:
            raise InputError(
                f"{where}: it has no {name}; add it, or take it out of the "
                "list of trials."
            )
        if row["channel"] or "offset" in row:
            raise InputError(
                f"{where}: trials are of whole files; write this part or "
                "channel to a file of its own."
            )
        found[name] = os.path.join(folder, row["path"])
    return found


def score_trials(model, trials, paths):
    """Score trials as :meth:`SpeakerIdentifier.verify` does.

    Each recording is read once, whatever the number of its trials.

    Arguments
    ---------
    model : SpeakerIdentifier
    trials : TrialList
    paths : dict
        From :func:`find_recordings`.

    Returns
    -------
    scores : list of float or None
        None for a trial of a recording that cannot be used.
    left_out : list of InputError
        About those recordings.
    """
    model.check_current(COHORT)
    position, directions, left_out = {}, [], []
    analyses = model.analyse_all(paths.values(), errors=True)
    for name, found in zip(paths, analyses):
        if isinstance(found, InputError):
            left_out.append(found)
        else:
            position[name] = len(directions)
            directions.append(found.direction.cpu())
    if not directions:
        raise left_out[0]
    used = [set(pair) <= position.keys() for pair in trials.pairs]
    chosen = [pair for pair, has in zip(trials.pairs, used) if has]
    places = [[position[a], position[b]] for a, b in chosen]
    first, second = torch.tensor(places).reshape(-1, 2).T.long()
    found = compare(torch.stack(directions), first, second, model.cohort)
    values = iter(found.tolist())
    return [next(values) if has else None for has in used], left_out


def write_scores(path, trials, scores):
    """Write scores in the form that the list's tools read; tell the errors.

    ``score a b`` for a list of VoxCeleb's form, ``a b score`` for others, in
    the order of the list; trials without a score are left out. Returns
    ``trials``, their number, and for labels of both kinds ``eer`` (per cent)
    and ``min_dcf``.
    """
    with atomic_write(path) as file:
        for (a, b), score in zip(trials.pairs, scores):
            if score is None:
                continue
            words = [a, b]
            place = 0 if trials.form == "VoxCeleb" else 2
            words.insert(place, f"{score:.6f}")
            print(*words, file=file)
    kept = [i for i, score in enumerate(scores) if score is not None]
    summary = {"output": os.fspath(path), "trials": len(kept)}
    labels = [trials.same[i] for i in kept] if trials.same else []
    if len(set(labels)) == 2:
        values = torch.tensor([scores[i] for i in kept])
        labels = torch.tensor(labels)
        summary["eer"] = 100 * eer(values, labels)[0]
        summary["min_dcf"] = min_dcf(values, labels)[0]
    return summary
