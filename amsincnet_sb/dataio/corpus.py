"""Preparing anybody's recordings: a corpus becomes manifests to train on.

A corpus is listed (:mod:`amsincnet_sb.dataio.listings`) and every utterance
decoded once; what cannot be used is left out and reported. No audio is copied.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

import torch

from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import (
    Provenance,
    check_unedited,
    earlier_preparation,
    fingerprint,
    write_preparation,
)
from amsincnet_sb.dataio.recordings import SHORTEST, check_recordings
from amsincnet_sb.dataio.splits import (
    divided,
    leaks,
    real_files,
    split_notes,
    split_utterances,
)
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import absolute

__all__ = [
    "SHORTEST",
    "check_output",
    "check_recordings",
    "divided",
    "find_manifests",
    "prepare_own_corpus",
    "split_utterances",
    "training_advice",
    "training_command",
    "write_to_folder",
]


def prepare_own_corpus(
    source,
    output_folder,
    data_folder=None,
    test_fraction=0.25,
    validation_sentences=0,
    seed=1234,
    speaker_level=None,
    speaker_pattern=None,
    group=None,
):
    """Check a corpus and write its manifests.

    Arguments
    ---------
    source : str or Path
        See :func:`amsincnet_sb.dataio.listings.list_corpus`.
    output_folder : str or Path
        Gets train.csv, test.csv, valid.csv where utterances are held out, and
        a prepare.json that says what they were made from.
    data_folder : str or Path, optional
        What the paths in the manifests are relative to. The default is the
        folder of `source`, or the one around all recordings.
    test_fraction, validation_sentences, seed
        See :func:`split_utterances`.
    speaker_level, speaker_pattern, group
        See :func:`amsincnet_sb.dataio.listings.list_corpus`.

    Returns
    -------
    Provenance
        Its options hold ``corpus`` (what `source` was taken for), ``taken``
        (how it was read, in lines for the user) and ``data_folder``.

    Raises
    ------
    InputError
        `source` cannot be understood, names files that do not exist, or
        leaves nothing to train on or to test with, or a manifest of
        `output_folder` was changed by hand; nothing is written then.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> folder, noise = getfixture("tmp_path"), np.random.default_rng(0)
    >>> for name in ("ann/1.wav", "ann/2.flac", "bob/x/1.wav", "bob/x/2.wav"):
    ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
    ...     soundfile.write(folder / name, noise.uniform(-1, 1, 8000), 16000)
    >>> summary = prepare_own_corpus(folder, folder / "manifests")
    >>> summary.report()[0]
    'train: 2 speakers, 2 utterances, 0.00 hours'
    """
    if not 0 < test_fraction < 1:
        raise InputError(
            f"test_fraction is {test_fraction} but must lie between 0 and 1."
        )
    if validation_sentences < 0:
        raise InputError(
            f"validation_sentences is {validation_sentences} but must be 0 or "
            "more."
        )
    check_output(output_folder)
    listing = list_corpus(
        source, data_folder, speaker_level, speaker_pattern, group
    )
    utterances, left_out, notes, digest = check_recordings(listing)
    groups = {u.id: u.group for u in listing.utterances}
    files = real_files(utterances, listing.data_folder)
    splits, unsplit = _splits(
        source,
        listing,
        utterances,
        test_fraction,
        validation_sentences,
        seed,
        groups,
        files,
    )
    left_out = unsplit + left_out
    learned = {u.spk_id for u in splits["train"]}
    if len(learned) < 2 or not splits["test"]:
        raise InputError(_too_little(source, listing, splits, left_out))
    for split, kind in (("test", "test"), ("valid", "validation")):
        if split == "test" or validation_sentences or splits[split]:
            lacking = learned - {u.spk_id for u in splits[split]}
            notes += [f"speaker {s} has no {kind} utterance" for s in lacking]
    options = {
        "corpus": listing.kind,
        "source": absolute(source),
        "data_folder": listing.data_folder,
        "test_fraction": test_fraction,
        "validation_sentences": validation_sentences,
        "seed": seed,
    }
    given = dict(
        speaker_level=speaker_level,
        speaker_pattern=speaker_pattern,
        group=group,
    )
    options |= {name: it for name, it in given.items() if it is not None}
    summary = Provenance(
        {**options, "taken": list(listing.taken)},
        fingerprint(options, [digest]),
        left_out=sorted(left_out),
        # What may be wrong comes before what is only worth knowing.
        notes=[
            *listing.notes,
            *split_notes(splits, groups, files),
            *sorted(notes),
        ],
    )
    return write_to_folder(output_folder, splits, summary)


def write_to_folder(folder, splits, summary):
    """:func:`write_preparation` with the manifests' usual names.

    Raises InputError if one would replace a file that somebody else wrote.
    """
    check_output(folder)
    return write_preparation(_paths(folder), splits, summary, _keep(folder))


def find_manifests(folder, validation_sentences=0):
    """Find the manifests of a finished preparation, as a recipe names them.

    Arguments
    ---------
    folder : str or Path
        Output of :func:`prepare_own_corpus`.
    validation_sentences : int
        What the recipe is asked to hold out; InputError if that is not done.

    Returns
    -------
    corpus : Provenance
    options : dict
        ``train_annotation``, ``valid_annotation``, ``test_annotation`` and
        ``validation_sentences``, which is 0 without a valid.csv.
    """
    folder = Path(str(folder))
    corpus = Provenance.read(folder)
    splits = {*corpus.manifests} if corpus else set()
    files = [folder / f"{split}.csv" for split in splits]
    if not {"train", "test"} <= splits or not all(map(Path.is_file, files)):
        raise InputError(
            f"manifest {folder} is not a finished preparation with "
            "prepare.json, train.csv and test.csv; make one with `amsincnet "
            "prepare`."
        )
    held_out = "valid" in splits
    if validation_sentences and not held_out:
        raise InputError(
            f"validation_sentences is {validation_sentences}, but manifest "
            f"{folder} has no valid.csv; prepare it with "
            f"--validation-sentences {validation_sentences}."
        )
    made = corpus.options.get("validation_sentences")  # of a list it is 0
    if validation_sentences and made and validation_sentences != made:
        raise InputError(
            f"validation_sentences is {validation_sentences}, but manifest "
            f"{folder} was prepared with {made}; leave it out, or prepare again."
        )
    options = {
        f"{split}_annotation": str(folder / f"{split}.csv")
        for split in ("train", "valid", "test")
    }
    kept = validation_sentences or made or 1
    options["validation_sentences"] = kept if held_out else 0
    return corpus, options


def training_advice(folder, corpus):
    """Two lines, the second of which is :func:`training_command`."""
    how = "Train on them with"
    if not torch.cuda.is_available():
        how += (
            " (no GPU: what 15 minutes allow, --minutes=N for others; to be asked "
            "about recordings like these)"
        )
    return how, f"  {training_command(folder, corpus)}"


def training_command(folder, corpus):
    """What to type, anywhere, to train on a preparation on this machine."""
    name = "sinc_tdnn_robust" if torch.cuda.is_available() else "quick"
    words = [*_program(), "train", name]
    words.append(f"--manifest={absolute(folder)}")
    words.append(f"--data_folder={corpus.options['data_folder']}")
    return " ".join(map(_shell_word, words))


def _program():
    """`amsincnet`, or what does the same where a shell would not find it."""
    found = shutil.which("amsincnet")
    if found and Path(found).parent == Path(sys.executable).parent:
        return ["amsincnet"]
    return [sys.executable, "-m", "amsincnet_sb"]


def _shell_word(text):
    """Text as a word of bash or zsh, whatever bytes a name has."""
    if text.isprintable():
        return shlex.quote(text)
    codes = (f"\\{byte:03o}" for byte in os.fsencode(text))
    return f"$'{''.join(codes)}'"


def check_output(folder):
    """Refuse to replace files that somebody else wrote or changed."""
    earlier = earlier_preparation(folder)
    check_unedited(_paths(folder), earlier, _keep(folder))


def _paths(folder):
    return {s: Path(folder, f"{s}.csv") for s in ("train", "valid", "test")}


def _keep(folder):
    return (
        "choose another output folder (--manifest trains on what is in "
        f"{folder} as it is)"
    )


def _splits(
    source, listing, utterances, fraction, held_out, seed, groups, files
):
    """As the corpus says itself, or else drawn by split_utterances."""
    given = {u.id: u.split for u in listing.utterances}
    if not any(given.values()):
        return split_utterances(
            utterances, fraction, held_out, seed, groups, files
        )
    if held_out:
        raise InputError(
            f"{source}: it says itself what is for training and what for "
            "testing; leave validation_sentences at 0."
        )
    learned = {u.spk_id for u in utterances if given[u.id] == "train"}
    place = {u: given[u.id] for u in utterances if u.spk_id in learned}
    left_out = [
        (u.wav, f"speaker {u.spk_id} has no training utterance")
        for u in utterances
        if u not in place
    ]
    sides = {groups[u.id]: split for u, split in place.items()}
    for u, split in place.items():
        other = sides[groups[u.id]]
        if groups[u.id] and other != split:
            raise InputError(
                f"{source}: it puts {groups[u.id]!r}, which --group keeps "
                f"together, into {split} and {other}; correct it, or leave "
                "--group out."
            )
    splits = divided(utterances, place)
    for split in ("test", "valid"):
        leaked = leaks(splits[split], splits["train"], files)
        reason = "training utterances have samples of it"
        left_out += [(u.wav, reason) for u in leaked]
        splits[split] = [u for u in splits[split] if u not in leaked]
    return splits, left_out


def _too_little(source, listing, splits, left_out):
    """Says why there is nothing to train on or to test with."""
    named = {listed.speaker for listed in listing.utterances}
    if len(named) == 1:
        what = f"has utterances of one speaker alone, {named.pop()}"
    elif len({u.spk_id for u in splits["train"]}) > 1:
        what = "has no usable utterance to test with"
    else:
        what = (
            "has fewer than two speakers with a usable utterance to train on "
            "and another to test with"
        )
        files = {row.wav for row in listing.utterances if row.stop is None}
        if len(files) == len(named) == len(listing.utterances):
            what += (
                "; name parts of long recordings in a list with path, "
                "speaker, offset and duration (seconds)"
            )
    what += "".join(f"; {note}" for note in listing.notes[:1])
    first = "".join(
        f"; the first problem is {file}: {why.rstrip('.')}"
        for file, why in left_out[:1]
    )
    return f"{source}, taken for a {listing.kind}, {what}{first}."
