"""Anybody's recordings become manifests to train on.

Read are a folder with a folder for each speaker, a CSV or JSON manifest, a
Kaldi data folder, and the lists that users of the released code have. Every
recording is decoded once: what cannot be used is left out and said. No audio
is copied.
"""

import csv
import hashlib
import json
import os
import re
import shlex
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from amsincnet_sb.dataio.audio import audio_info, is_silent, read_audio
from amsincnet_sb.dataio.labels import read_labels
from amsincnet_sb.dataio.manifest import (
    FORMAT,
    Provenance,
    Utterance,
    corpus_files,
    totals,
    write_manifest,
)
from amsincnet_sb.dataio.over_files import over_files
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "Listed",
    "Listing",
    "check_recordings",
    "find_manifests",
    "list_corpus",
    "prepare_own_corpus",
    "split_sentences",
    "training_command",
    "write_preparation",
]

# What people call the columns of a manifest, in the order of preference.
COLUMNS = {
    "path": "path wav file filename file_path audio audio_path audio_filepath",
    "speaker": "speaker spk_id speaker_id spk client_id label",
    "id": "id utt_id utt utterance",
    "split": "split set subset partition",
    "start": "start",
    "stop": "stop end",
}
SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
SUFFIXES = tuple(f".{name.lower()}" for name in soundfile.available_formats())
SUFFIXES += (".aif", ".aifc", ".oga", ".opus", ".snd", ".sph")
# Recordings that are not read, listed so that they are not lost silently.
SUFFIXES += (".aac", ".amr", ".m4a", ".mp4", ".pcm", ".webm", ".wma")

WINDOW = 0.2  # seconds; training cannot draw a chunk from less
USUAL_RATE = 16_000  # Hz
BLOCK = 2**24  # samples held at once while a recording is checked
THREADS = 4

# SpeechBrain's placeholders: $data_root in CSV files, {data_root} in JSON.
_PLACEHOLDER = re.compile(r"(?:\$\w+|\$?\{\w+\})[/\\]+")
_DIGITS = re.compile(r"[0-9]{1,15}")


class Listed(NamedTuple):
    """One sentence as a corpus names it, not yet looked at.

    `wav` is relative to the data folder; `split` is None where the corpus
    leaves it open; `start` and `stop` are samples at the file's own rate,
    `stop` None for the end.
    """

    wav: str
    speaker: str
    id: str
    split: str | None = None
    start: int = 0
    stop: int | None = None


class Listing(NamedTuple):
    """A corpus as :func:`list_corpus` finds it.

    `kind` says in words what it was taken for, `data_folder` is absolute,
    `sentences` are :class:`Listed`, `left_out` pairs (file, reason).
    """

    kind: str
    data_folder: str
    sentences: list
    left_out: list


def prepare_own_corpus(
    source,
    output_folder,
    data_folder=None,
    test_fraction=0.25,
    validation_sentences=0,
    seed=1234,
):
    """Checks a corpus and writes its manifests.

    Arguments
    ---------
    source : str or Path
        See :func:`list_corpus`.
    output_folder : str or Path
        Gets train.csv, test.csv, valid.csv where sentences are held out, and
        a prepare.json that says what they were made from.
    data_folder : str or Path, optional
        What the paths in the manifests are relative to. The default is the
        folder of `source`, or the one around all recordings.
    test_fraction, validation_sentences, seed
        See :func:`split_sentences`.

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
    >>> import numpy as np
    >>> folder, noise = getfixture("tmp_path"), np.random.default_rng(0)
    >>> for name in ("ann/1.wav", "ann/2.flac", "bob/x/1.wav", "bob/x/2.wav"):
    ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
    ...     soundfile.write(folder / name, noise.uniform(-1, 1, 8000), 16000)
    >>> summary = prepare_own_corpus(folder, folder / "manifests")
    >>> summary.options["corpus"]
    'folder with a folder for each speaker'
    >>> summary.report()[0]
    'train: 2 speakers, 2 sentences, 0.00 hours'
    """
    _check_options(test_fraction, validation_sentences)
    _check_output(output_folder)
    listing = list_corpus(source, data_folder)
    utterances, left_out, notes, digest = check_recordings(listing)
    explicit = {s.id: s.split for s in reversed(listing.sentences) if s.split}
    if explicit:
        if validation_sentences:
            raise InputError(
                f"{source}: it says itself what is for training and what for "
                "testing; leave validation_sentences at 0."
            )
        splits, unsplit = _explicit_splits(utterances, explicit)
    else:
        splits, unsplit = split_sentences(
            utterances, test_fraction, validation_sentences, seed
        )
    left_out = unsplit + left_out
    learned = {u.spk_id for u in splits["train"]}
    if len(learned) < 2 or not splits["test"]:
        raise InputError(_too_little(source, listing, splits, left_out))
    untested = learned - {u.spk_id for u in splits["test"]}
    notes += [f"speaker {name} has no test sentence" for name in untested]
    options = {
        "corpus": listing.kind,
        "source": os.path.abspath(source),
        "data_folder": listing.data_folder,
        "test_fraction": test_fraction,
        "validation_sentences": validation_sentences,
        "seed": seed,
    }
    return write_preparation(
        output_folder, splits, options, digest, sorted(left_out), sorted(notes)
    )


def write_preparation(
    output_folder, splits, options, digest, left_out=(), notes=()
):
    """Writes manifests and, last, the prepare.json that vouches for them.

    Arguments
    ---------
    output_folder : str or Path
    splits : dict
        ``train``, ``valid`` and ``test`` -> list of Utterance. An empty one
        is not written, and one of an earlier preparation removed.
    options : dict
        Of the preparation; must be JSON.
    digest : str
        What it depends on, from :func:`check_recordings`.
    left_out, notes : list
        See Provenance.

    Returns
    -------
    Provenance

    Raises
    ------
    InputError
        A file cannot be written, or would replace one that is not ours.
    """
    _check_output(output_folder)
    folder = Path(output_folder)
    paths = {split: folder / f"{split}.csv" for split in splits}
    text = json.dumps([FORMAT, options, digest], sort_keys=True)
    summary = Provenance(
        options,
        hashlib.sha256(text.encode()).hexdigest(),
        {split: totals(own) for split, own in splits.items() if own},
        list(left_out),
        list(notes),
    )
    summary.write(folder, {})  # until it is complete, it vouches for nothing
    for split, path in paths.items():
        if splits[split]:
            write_manifest(path, splits[split])
        else:
            path.unlink(missing_ok=True)
    summary.write(folder, {s: p for s, p in paths.items() if splits[s]})
    return summary


def find_manifests(folder, validation_sentences=0):
    """The manifests of a finished preparation, as a recipe names them.

    Arguments
    ---------
    folder : str or Path
        Output of :func:`prepare_own_corpus`.
    validation_sentences : int
        What the recipe is asked to hold out, which must have been done.

    Returns
    -------
    corpus : Provenance
    options : dict
        ``train_annotation``, ``valid_annotation``, ``test_annotation`` and
        ``validation_sentences``, which is 0 without a valid.csv.

    Raises
    ------
    InputError
        The folder is not a finished preparation, or holds out nothing.
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
    return corpus, {
        "train_annotation": str(folder / "train.csv"),
        "valid_annotation": str(folder / "valid.csv"),
        "test_annotation": str(folder / "test.csv"),
        "validation_sentences": max(validation_sentences, int(held_out)),
    }


def training_command(folder, corpus):
    """What to type in a recipe's folder to train on a preparation.

    Arguments
    ---------
    folder : str or Path
        Of the preparation.
    corpus : Provenance
        From :func:`prepare_own_corpus`.

    Returns
    -------
    str

    Example
    -------
    >>> corpus = Provenance({"data_folder": "/my data"}, "", {})
    >>> print(training_command("/manifests", corpus))
    python train.py hparams/am_sincnet_m035.yaml --manifest=/manifests \
'--data_folder=/my data'
    """
    return shlex.join(
        [
            "python",
            "train.py",
            "hparams/am_sincnet_m035.yaml",
            f"--manifest={os.path.abspath(folder)}",
            f"--data_folder={corpus.options['data_folder']}",
        ]
    )


def list_corpus(source, data_folder=None):
    """Finds out how a corpus is described, and lists its sentences.

    Arguments
    ---------
    source : str or Path
        One of

        - a folder with a folder for each speaker, recordings at any depth
          below; or with ``train`` and ``test`` folders of that form;
        - a ``.csv``, ``.tsv`` or ``.json`` file that names path and speaker
          of each recording, and possibly ``id``, ``split``, ``start`` and
          ``stop`` (samples); SpeechBrain's manifests are such files;
        - a Kaldi data folder with ``wav.scp`` and ``utt2spk``; commands in
          ``wav.scp`` are refused;
        - a folder with one ``*train*.scp``, one ``*test*.scp`` and one
          ``*.npy`` dictionary of labels, as for the released code.
    data_folder : str or Path, optional
        What paths are relative to; the default is the folder of `source`.

    Returns
    -------
    Listing

    Raises
    ------
    InputError
        It is none of these, is incomplete, repeats an ID, or names files that
        do not exist or lie outside `data_folder`.
    """
    source = Path(source)
    if source.is_dir():
        lists = [
            sorted(source.glob(pattern))
            for pattern in ("*train*.scp", "*test*.scp", "*.npy")
        ]
        if all(len(found) == 1 for found in lists):
            return _released_lists(*(found for (found,) in lists), data_folder)
        if (source / "wav.scp").exists():
            return _kaldi(source, data_folder)
        return _folders(source, data_folder)
    if not source.is_file():
        raise InputError(
            f"{source}: there is no such file or folder; check the path."
        )
    suffix = source.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json"):
        raise InputError(
            f"{source}: it is neither a folder nor a .csv, .tsv or .json "
            "manifest; give one of these."
        )
    rows = _json_rows(source) if suffix == ".json" else _csv_rows(source)
    kind = "JSON manifest" if suffix == ".json" else "CSV manifest"
    return _located(kind, source, rows, data_folder)


def check_recordings(listing):
    """Decodes every sentence once.

    Left out, with the reason: what cannot be read, is cut short, silent, not
    finite, or shorter than 200 ms; second copies of the same samples, in
    whatever file; and samples that two speakers claim, for both.

    Arguments
    ---------
    listing : Listing

    Returns
    -------
    utterances : list of Utterance
        In the order given.
    left_out : list of tuple
        (file, reason)
    notes : list of str
    digest : str
        Differs when any sample, name or speaker does.
    """
    everything, left_out = hashlib.sha256(), list(listing.left_out)
    same, rates, channels = defaultdict(list), Counter(), Counter()
    checked = tqdm(
        over_files(
            partial(_check, listing.data_folder), listing.sentences, THREADS
        ),
        total=len(listing.sentences),
        desc="recordings",
        disable=None,  # no bar unless someone watches
    )
    for sentence, (utterance, found) in zip(listing.sentences, checked):
        if utterance is None:
            left_out.append((sentence.wav, found))
            continue
        samples, info = found
        same[samples].append(utterance)
        everything.update(f"{sentence} {samples.hex()}\n".encode())
        rates[info.sample_rate] += 1
        channels[info.channels] += 1
    kept = set()
    for first, *copies in same.values():
        rivals = {u.spk_id: u.wav for u in (first, *copies)}
        if len(rivals) == 1:
            kept.add(first)
            reason = f"it has the same samples as {first.wav}"
            left_out += [(u.wav, reason) for u in copies]
            continue
        for u in (first, *copies):
            name, wav = next(r for r in rivals.items() if r[0] != u.spk_id)
            left_out.append(
                (u.wav, f"speaker {name} has the same samples in {wav}")
            )
    utterances = [u for (u, *_) in same.values() if u in kept]
    notes = [
        f"sentences at {rate} Hz, resampled when read: {n}"
        for rate, n in rates.items()
        if rate != USUAL_RATE
    ] + [
        f"sentences with {count} channels, averaged: {n}"
        for count, n in channels.items()
        if count > 1
    ]
    return utterances, left_out, notes, everything.hexdigest()


def split_sentences(
    utterances, test_fraction=0.25, validation_sentences=0, seed=1234
):
    """Divides each speaker's sentences into train, valid and test.

    What happens to a sentence depends on the seed, its own ID and its
    speaker's other sentences alone: more speakers change nothing.

    Arguments
    ---------
    utterances : list of Utterance
    test_fraction : float
        Of each speaker's sentences, for testing; at least one.
    validation_sentences : int
        How many of each speaker's sentences go to valid.
    seed : int

    Returns
    -------
    splits : dict
        ``train``, ``valid`` and ``test`` -> list of Utterance, in the order
        given.
    left_out : list of tuple
        (file, reason): speakers with too few sentences.

    Raises
    ------
    InputError
        `test_fraction` does not lie between 0 and 1, or
        `validation_sentences` is negative.
    """
    _check_options(test_fraction, validation_sentences)
    speakers = defaultdict(list)
    for u in utterances:
        speakers[u.spk_id].append(u)
    place, left_out, needed = {}, [], 2 + validation_sentences
    for speaker, own in speakers.items():
        if len(own) < needed:
            reason = (
                f"speaker {speaker} has {len(own)} usable sentence"
                f"{'s' * (len(own) > 1)} and needs {needed}"
            )
            left_out += [(u.wav, reason) for u in own]
            continue
        own.sort(
            key=lambda u: hashlib.sha256(f"{seed} {u.id}".encode()).digest()
        )
        tested = round(test_fraction * len(own))
        tested = min(max(tested, 1), len(own) - 1 - validation_sentences)
        for i, u in enumerate(own):
            held_out = i < tested + validation_sentences
            place[u] = (
                "test" if i < tested else "valid" if held_out else "train"
            )
    splits = {"train": [], "valid": [], "test": []}
    for u in utterances:
        if u in place:
            splits[place[u]].append(u)
    return splits, left_out


def _check_output(folder):
    """Nobody's own manifests are replaced."""
    for split in ("train", "valid", "test"):
        path = Path(folder, f"{split}.csv")
        if path.exists() and Provenance.read(folder) is None:
            raise InputError(
                f"{path} exists and was not written by a preparation; choose "
                "another output folder."
            )


def _check_options(test_fraction, validation_sentences):
    if not 0 < test_fraction < 1:
        raise InputError(
            f"test_fraction is {test_fraction} but must lie between 0 and 1."
        )
    if validation_sentences < 0:
        raise InputError(
            f"validation_sentences is {validation_sentences} but must be 0 or "
            "more."
        )


def _explicit_splits(utterances, explicit):
    """As the corpus says, without those of whom nothing is learned."""
    splits = {"train": [], "valid": [], "test": []}
    learned = {u.spk_id for u in utterances if explicit[u.id] == "train"}
    left_out = []
    for u in utterances:
        if u.spk_id in learned:
            splits[explicit[u.id]].append(u)
        else:
            reason = f"speaker {u.spk_id} has no training sentence"
            left_out.append((u.wav, reason))
    return splits, left_out


def _too_little(source, listing, splits, left_out):
    """Says why there is nothing to train on or to test with."""
    named = {sentence.speaker for sentence in listing.sentences}
    if len(named) == 1:
        what = f"has sentences of one speaker alone, {named.pop()}"
    elif len({u.spk_id for u in splits["train"]}) > 1:
        what = "has no usable sentence to test with"
    else:
        what = (
            "has fewer than two speakers with a usable sentence to train on "
            "and another to test with"
        )
    first = "".join(
        f"; the first problem is {file}: {why.rstrip('.')}"
        for file, why in left_out[:1]
    )
    return f"{source}, taken for a {listing.kind}, {what}{first}."


def _check(data_folder, sentence):
    """(Utterance, (hash of its samples, AudioInfo)), or (None, reason)."""
    path = os.path.join(data_folder, sentence.wav)
    try:
        info = audio_info(path)
        start, stop = sentence.start, sentence.stop
        stop = info.frames if stop is None else stop
        if not start < stop <= info.frames:
            return None, f"it has no samples from {start} to {stop}"
        seconds = (stop - start) / info.sample_rate
        if seconds < WINDOW:
            return None, f"it lasts {seconds:.3f} s and {WINDOW} s are needed"
        samples, silent = hashlib.sha256(), True
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            wave = read_audio(path, first, last, info.sample_rate)
            samples.update(wave.numpy().tobytes())
            silent = silent and is_silent(wave)
        if silent:
            return None, "it is silent"
        return Utterance(
            sentence.id, seconds, sentence.wav, start, stop, sentence.speaker
        ), (samples.digest(), info)
    except InputError as error:
        return None, str(error).removeprefix(f"{path}: ").rstrip(".")


def _folders(source, data_folder):
    """A folder for each speaker, possibly within train and test."""
    root = os.path.abspath(data_folder or source)
    prefix = os.path.relpath(os.path.abspath(source), root)
    if prefix.split(os.sep)[0] == os.pardir:
        raise InputError(
            f"{source} is outside the data folder {root}; give a folder "
            "around it."
        )
    prefix = "" if prefix == os.curdir else f"{Path(prefix).as_posix()}/"
    names = [name for name, *_ in corpus_files(source, SUFFIXES)]
    tops = {name.split("/")[0].lower() for name in names if "/" in name}
    divided = "train" in tops and tops <= SPLITS.keys()
    sentences, left_out = [], []
    for name in names:
        *folders, _ = name.split("/")
        if len(folders) < 1 + divided:
            left_out.append((prefix + name, "it is in no speaker's folder"))
            continue
        split = SPLITS[folders[0].lower()] if divided else None
        speaker = folders[divided]
        sentences.append(Listed(prefix + name, speaker, name, split))
    if not sentences:
        raise InputError(
            f"{source} has no recordings in folders of speakers; give a folder "
            "that holds a folder for each speaker, a Kaldi data folder, or a "
            "manifest."
        )
    kind = "folder with a folder for each speaker"
    if divided:
        kind = "folder with train and test folders of speakers"
    return Listing(kind, root, sentences, left_out)


def _csv_rows(source):
    """(where, dictionary) of each row."""
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = []
            for row in filter(None, reader):
                where = f"{source}, line {reader.line_num}"
                if len(row) != len(header):
                    raise InputError(
                        f"{where}: there are {len(row)} values for "
                        f"{len(header)} columns."
                    )
                values = (value.strip() for value in row)
                rows.append((where, dict(zip(header, values))))
    except OSError as error:
        raise InputError(
            f"{source}: it cannot be read ({error.strerror})."
        ) from error
    except (csv.Error, UnicodeError) as error:
        raise InputError(
            f"{source}: it is not a CSV file in UTF-8 ({error})."
        ) from error
    if not rows:
        raise InputError(f"{source}: it has no rows below its header.")
    return rows


def _json_rows(source):
    """(where, dictionary) of each entry of an object or of a list."""

    def unique(pairs):
        """A JSON object, if no key occurs twice."""
        repeated = [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]
        if repeated:
            raise InputError(f"{source}: {repeated[0]!r} occurs twice.")
        return dict(pairs)

    try:
        text = source.read_text(encoding="utf-8-sig")
        tree = json.loads(text, object_pairs_hook=unique)
    except OSError as error:
        raise InputError(
            f"{source}: it cannot be read ({error.strerror})."
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{source}: it is not JSON in UTF-8 ({error})."
        ) from error
    named = []
    if isinstance(tree, dict):
        named = [
            (f"entry {k!r}", {"id": k}, entry) for k, entry in tree.items()
        ]
    elif isinstance(tree, list):
        named = [(f"entry {i}", {}, entry) for i, entry in enumerate(tree, 1)]
    rows = []
    for where, given, entry in named:
        if not isinstance(entry, dict):
            raise InputError(
                f"{source}, {where}: it must be an object with path and "
                "speaker."
            )
        rows.append((f"{source}, {where}", {**given, **entry}))
    if not rows:
        raise InputError(f"{source}: it is no object or list of sentences.")
    return rows


def _kaldi(source, data_folder):
    """wav.scp and utt2spk."""
    for name in ("utt2spk", "segments"):
        if (source / name).exists() != (name == "utt2spk"):
            raise InputError(
                f"{source}: it has {'no ' * (name == 'utt2spk')}{name}, and a "
                "Kaldi data folder with wav.scp and utt2spk alone is read."
            )
    speakers = dict(_kaldi_lines(source / "utt2spk").values())
    rows = []
    for where, (utterance, path) in _kaldi_lines(source / "wav.scp").items():
        if path.endswith("|") or path.startswith("|"):
            raise InputError(
                f"{where}: it is a command, and commands are not run; write "
                "its output to a file and name that."
            )
        if utterance not in speakers:
            raise InputError(
                f"{where}: {utterance} has no speaker in utt2spk; add it."
            )
        row = {"id": utterance, "path": path, "speaker": speakers[utterance]}
        rows.append((where, row))
    return _located("Kaldi data folder", source / "wav.scp", rows, data_folder)


def _kaldi_lines(path):
    """Where -> (key, value) of a file with a key and a value a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"{path}: it cannot be read as text in UTF-8 ({error})."
        ) from error
    pairs = {}
    for number, line in enumerate(lines, start=1):
        where, parts = f"{path}, line {number}", line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) < 2:
            raise InputError(f"{where}: it has nothing after {parts[0]}.")
        pairs[where] = parts[0], parts[1].strip()
    if not pairs:
        raise InputError(f"{path}: it names nothing.")
    keys = Counter(key for key, _ in pairs.values())
    for where, (key, _) in reversed(pairs.items()):
        if keys[key] > 1:
            raise InputError(f"{where}: the ID {key!r} occurs twice.")
    return pairs


def _released_lists(train_scp, test_scp, labels, data_folder):
    """Lists and labels as the released code has them."""
    # Imported on demand: models and SpeechBrain come with it.
    from amsincnet_sb.released import corpus_from_scp

    root = os.path.abspath(data_folder or train_scp.parent)
    train, test = corpus_from_scp(
        root, train_scp, test_scp, read_labels(labels)
    )
    sentences = [
        Listed(u.wav, u.spk_id, u.wav, split, u.start, u.stop)
        for split, utterances in (("train", train), ("test", test))
        for u in utterances
    ]
    return Listing("folder of .scp lists and .npy labels", root, sentences, [])


def _located(kind, source, rows, data_folder):
    """Rows of a manifest as a Listing, with every file found."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {
        what: next(
            (n for a in aliases.split() for n in names if n.lower() == a), None
        )
        for what, aliases in COLUMNS.items()
    }
    for what in ("path", "speaker"):
        if columns[what] is None:
            raise InputError(
                f"{source}: no column gives the {what}; one of "
                f"{', '.join(COLUMNS[what].split())} is needed, and there are "
                f"{', '.join(map(str, names))}."
            )
    sentences, paths, seen = [], [], set()
    base = os.path.abspath(data_folder or source.parent)
    for where, row in rows:
        path, speaker, name, split, start, stop = (
            _text(where, row, columns[what]) for what in COLUMNS
        )
        for what, text in (("path", path), ("speaker", speaker)):
            if not text:
                raise InputError(f"{where}: the {what} is missing.")
        if columns["split"] is not None:
            if split.lower() not in SPLITS:
                raise InputError(
                    f"{where}: {columns['split']} is {split!r} but must be "
                    "train, valid or test."
                )
            split = SPLITS[split.lower()]
        path = _PLACEHOLDER.sub("", path, count=1)
        paths.append(os.path.normpath(os.path.join(base, path)))
        start = _samples(where, "start", start) or 0
        stop = _samples(where, "stop", stop)
        if name in seen:
            raise InputError(f"{where}: the ID {name!r} occurs twice.")
        seen.update([name] if name else [])
        sentences.append(Listed("", speaker, name, split or None, start, stop))

    missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{rows[missing[0]][0]}: {paths[missing[0]]}{more} does not exist; "
            "correct the path, or give the folder that paths are relative to "
            "with --data-folder."
        )
    outside = [p for p in paths if os.path.commonpath([base, p]) != base]
    if outside and data_folder:
        raise InputError(
            f"{source}: {outside[0]} is outside the data folder {base}; give "
            "a folder around all recordings."
        )
    root = os.path.commonpath([os.path.dirname(p) for p in paths])
    root = root if outside else base
    for i, (path, sentence) in enumerate(zip(paths, sentences)):
        wav = Path(os.path.relpath(path, root)).as_posix()
        name = sentence.id or wav
        if not sentence.id and (sentence.start or sentence.stop):
            name = f"{wav}:{sentence.start}-{sentence.stop or ''}"
        if not sentence.id and name in seen:
            raise InputError(f"{rows[i][0]}: the ID {name!r} occurs twice.")
        sentences[i] = sentence._replace(wav=wav, id=name)
    return Listing(kind, root, sentences, [])


def _text(where, row, column):
    """A value of a manifest; empty where there is none."""
    value = row.get(column, "")
    if isinstance(value, (dict, list, bool)):
        raise InputError(f"{where}: {column} must be text or a number.")
    return "" if value is None else str(value).strip()


def _samples(where, what, text):
    if text and not _DIGITS.fullmatch(text):
        raise InputError(
            f"{where}: {what} is {text!r} but must be a whole number of "
            "samples."
        )
    return int(text) if text else None
