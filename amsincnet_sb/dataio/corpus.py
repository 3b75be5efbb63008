"""Preparing anybody's recordings: a corpus becomes manifests to train on.

A corpus is listed (:mod:`amsincnet_sb.dataio.listings`) and every utterance
decoded once; what cannot be used is left out and reported. No audio is copied.
"""

import hashlib
import os
import shlex
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from amsincnet_sb.dataio.audio import audio_info, is_silent, read_audio
from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import (
    Provenance,
    Utterance,
    fingerprint,
    write_preparation,
)
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "check_recordings",
    "divided",
    "find_manifests",
    "prepare_own_corpus",
    "split_utterances",
    "training_command",
    "write_to_folder",
]

SHORTEST = 0.2  # seconds; training cannot draw a chunk from less
USUAL_RATE = 16_000  # Hz
BLOCK = 2**24  # samples held at once while a recording is checked


def prepare_own_corpus(
    source,
    output_folder,
    data_folder=None,
    test_fraction=0.25,
    validation_sentences=0,
    seed=1234,
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

    Returns
    -------
    Provenance
        Its options hold ``corpus`` (what `source` was taken for) and
        ``data_folder``.

    Raises
    ------
    InputError
        `source` cannot be understood, names files that do not exist, or
        leaves nothing to train on or to test with; nothing is written then.

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
    _check_output(output_folder)
    listing = list_corpus(source, data_folder)
    utterances, left_out, notes, digest = check_recordings(listing)
    splits, unsplit = _splits(
        source, listing, utterances, test_fraction, validation_sentences, seed
    )
    left_out = unsplit + left_out
    learned = {u.spk_id for u in splits["train"]}
    if len(learned) < 2 or not splits["test"]:
        raise InputError(_too_little(source, listing, splits, left_out))
    untested = learned - {u.spk_id for u in splits["test"]}
    notes += [f"speaker {name} has no test utterance" for name in untested]
    options = {
        "corpus": listing.kind,
        "source": os.path.abspath(source),
        "data_folder": listing.data_folder,
        "test_fraction": test_fraction,
        "validation_sentences": validation_sentences,
        "seed": seed,
    }
    summary = Provenance(
        options,
        fingerprint(options, [digest]),
        left_out=sorted(left_out),
        notes=sorted(notes),
    )
    return write_to_folder(output_folder, splits, summary)


def write_to_folder(folder, splits, summary):
    """:func:`write_preparation` with the manifests' usual names.

    Raises InputError if one would replace a file that is not ours.
    """
    _check_output(folder)
    paths = {split: Path(folder, f"{split}.csv") for split in splits}
    return write_preparation(paths, splits, summary)


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
    options = {
        f"{split}_annotation": str(folder / f"{split}.csv")
        for split in ("train", "valid", "test")
    }
    options["validation_sentences"] = max(validation_sentences, int(held_out))
    return corpus, options


def training_command(folder, corpus):
    """What to type in a recipe's folder to train on a preparation."""
    return shlex.join(
        ["python", "train.py", "hparams/am_sincnet_m035.yaml"]
        + [f"--manifest={os.path.abspath(folder)}"]
        + [f"--data_folder={corpus.options['data_folder']}"]
    )


def check_recordings(listing):
    """Decode every utterance of a Listing once.

    Left out, with the reason: what cannot be read, is cut short, silent, NaN
    or infinite, or shorter than 200 ms; second copies of the same samples, in
    whatever file; and samples that two speakers claim, for both.

    Returns the utterances in the order given, (file, reason) of what is left
    out, notes, and a hash of all samples, names and speakers.
    """
    everything, left_out = hashlib.sha256(), list(listing.left_out)
    same, rates, channels = defaultdict(list), Counter(), Counter()
    check = partial(_check, listing.data_folder)
    checked = tqdm(
        prefetch(check, listing.utterances, group=16),
        total=len(listing.utterances),
        desc="recordings",
        disable=None,  # no bar unless someone watches
    )
    for listed, (utterance, found) in zip(listing.utterances, checked):
        if utterance is None:
            left_out.append((listed.wav, found))
            continue
        samples, info = found
        same[samples].append(utterance)
        everything.update(f"{listed} {samples.hex()}\n".encode())
        rates[info.sample_rate] += 1
        channels[info.channels] += 1
    utterances, repeated = _without_copies(same.values())
    notes = [
        f"utterances at {rate} Hz, resampled when read: {n}"
        for rate, n in rates.items()
        if rate != USUAL_RATE
    ]
    notes += [
        f"utterances with {count} channels, averaged: {n}"
        for count, n in channels.items()
        if count > 1
    ]
    return utterances, left_out + repeated, notes, everything.hexdigest()


def _without_copies(groups):
    """The first of each group with the same samples; (file, reason) of rest."""
    utterances, left_out = [], []
    for first, *copies in groups:
        rivals = {u.spk_id: u.wav for u in (first, *copies)}
        if len(rivals) == 1:
            utterances.append(first)
            reason = f"it has the same samples as {first.wav}"
            left_out += [(u.wav, reason) for u in copies]
            continue
        for u in (first, *copies):
            name, wav = next(r for r in rivals.items() if r[0] != u.spk_id)
            reason = f"speaker {name} has the same samples in {wav}"
            left_out.append((u.wav, reason))
    return utterances, left_out


def split_utterances(
    utterances, test_fraction=0.25, validation_sentences=0, seed=1234
):
    """Divide each speaker's utterances into train, valid and test.

    At least one of each speaker's, and `test_fraction` of them, are for
    testing, and `validation_sentences` are held out. What happens to an
    utterance depends on the seed, its own ID and its speaker's other
    utterances alone: more speakers change nothing.

    Returns split -> list of Utterance, in the order given, and (file, reason)
    of speakers with too few utterances.
    """
    speakers = defaultdict(list)
    for u in utterances:
        speakers[u.spk_id].append(u)
    place, left_out, needed = {}, [], 2 + validation_sentences
    for speaker, own in speakers.items():
        if len(own) < needed:
            reason = (
                f"speaker {speaker} has {len(own)} usable utterance"
                f"{'s' * (len(own) > 1)} and needs {needed}"
            )
            left_out += [(u.wav, reason) for u in own]
            continue
        own.sort(
            key=lambda u: hashlib.sha256(f"{seed} {u.id}".encode()).digest()
        )
        tested = round(test_fraction * len(own))
        tested = min(max(tested, 1), len(own) - 1 - validation_sentences)
        held_out = tested + validation_sentences
        place |= dict.fromkeys(own, "train")
        place |= dict.fromkeys(own[:held_out], "valid")
        place |= dict.fromkeys(own[:tested], "test")
    return divided(utterances, place), left_out


def divided(utterances, place):
    """Split -> the utterances that `place` puts there, in the order given."""
    return {
        split: [u for u in utterances if place.get(u) == split]
        for split in ("train", "valid", "test")
    }


def _check_output(folder):
    """Refuse to replace manifests that no preparation has written."""
    for split in ("train", "valid", "test"):
        path = Path(folder, f"{split}.csv")
        if path.exists() and Provenance.read(folder) is None:
            raise InputError(
                f"{path} exists and was not written by a preparation; choose "
                "another output folder."
            )


def _splits(source, listing, utterances, fraction, held_out, seed):
    """As the corpus says itself, or else drawn by split_utterances."""
    given = {u.id: u.split for u in listing.utterances}
    if not any(given.values()):
        return split_utterances(utterances, fraction, held_out, seed)
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
    return divided(utterances, place), left_out


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
    first = "".join(
        f"; the first problem is {file}: {why.rstrip('.')}"
        for file, why in left_out[:1]
    )
    return f"{source}, taken for a {listing.kind}, {what}{first}."


def _check(data_folder, listed):
    """(Utterance, (hash of its samples, AudioInfo)) or (None, reason)."""
    path = os.path.join(data_folder, listed.wav)
    try:
        info = audio_info(path)
        start, stop = listed.start, listed.stop
        stop = info.samples if stop is None else stop
        if not start < stop <= info.samples:
            return None, f"it has no samples from {start} to {stop}"
        seconds = (stop - start) / info.sample_rate
        if seconds < SHORTEST:
            return None, f"it lasts {seconds:.3f} s and {SHORTEST} s are needed"
        samples, silent = hashlib.sha256(), True
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            wave = read_audio(path, first, last, info.sample_rate)
            samples.update(wave.numpy().tobytes())
            silent = silent and is_silent(wave)
        if silent:
            return None, "it is silent"
        utterance = Utterance(
            listed.id, seconds, listed.wav, start, stop, listed.speaker
        )
        return utterance, (samples.digest(), info)
    except InputError as error:
        return None, str(error).removeprefix(f"{path}: ").rstrip(".")
