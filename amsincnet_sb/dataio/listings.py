"""Listing the utterances of a corpus, however it is described.

A folder with a folder for each speaker, a CSV or JSON manifest, a Kaldi data
folder, or the lists of the authors' code. No recording is opened here.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import soundfile

from amsincnet_sb.dataio.lists import corpus_files, csv_rows, read_text
from amsincnet_sb.dataio.scp import scp_rows
from amsincnet_sb.utils.errors import InputError

__all__ = ["Listed", "Listing", "list_corpus"]

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
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
SUFFIXES = tuple(f".{name.lower()}" for name in soundfile.available_formats())
SUFFIXES += (".aif", ".aifc", ".oga", ".opus", ".snd", ".sph")
# Recordings that are not read, listed so that they are not lost silently.
SUFFIXES += (".aac", ".amr", ".m4a", ".mp4", ".pcm", ".webm", ".wma")

# SpeechBrain's placeholders: $data_root in CSV files, {data_root} in JSON.
_PLACEHOLDER = re.compile(r"(?:\$\w+|\$?\{\w+\})[/\\]+")
_DIGITS = re.compile(r"[0-9]{1,15}")


class Listed(NamedTuple):
    """An utterance as a corpus names it, not yet looked at."""

    wav: str  # relative to the data folder
    speaker: str
    id: str
    split: str | None = None  # None where the corpus leaves it open
    start: int = 0  # sample at the file's own rate
    stop: int | None = None  # None for the end


class Listing(NamedTuple):
    """A corpus as :func:`list_corpus` finds it."""

    kind: str  # what it was taken for, in words
    data_folder: str  # absolute
    utterances: list  # of Listed
    left_out: list  # (file, reason)


def list_corpus(source, data_folder=None):
    """Find out how a corpus is described, and list its utterances.

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
          ``*.npy`` dictionary of labels, as for the authors' code.
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
        patterns = "*train*.scp", "*test*.scp", "*.npy"
        lists = [sorted(source.glob(pattern)) for pattern in patterns]
        if all(len(found) == 1 for found in lists):
            lists = [found for (found,) in lists]
            rows = scp_rows(*lists, data_folder or source)
            kind = "folder of .scp lists and .npy labels"
            return _located(kind, lists[0], rows, data_folder)
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
    utterances, left_out = [], []
    for name in names:
        *folders, _ = name.split("/")
        if len(folders) < 1 + divided:
            left_out.append((prefix + name, "it is in no speaker's folder"))
            continue
        split = SPLITS[folders[0].lower()] if divided else None
        speaker = folders[divided]
        utterances.append(Listed(prefix + name, speaker, name, split))
    if not utterances:
        raise InputError(
            f"{source} has no recordings in folders of speakers; give a folder "
            "that holds a folder for each speaker, a Kaldi data folder, or a "
            "manifest."
        )
    kind = "folder with a folder for each speaker"
    if divided:
        kind = "folder with train and test folders of speakers"
    return Listing(kind, root, utterances, left_out)


def _csv_rows(source):
    """(where, dictionary) of each row."""
    (_, header), *rows = csv_rows(source, "export it again", ",;\t")
    if not rows:
        raise InputError(f"{source}: it has no rows below its header.")
    return [
        (where, {k.strip(): v.strip() for k, v in zip(header, row)})
        for where, row in rows
    ]


def _json_rows(source):
    """(where, dictionary) of each entry of an object or of a list."""

    def unique(pairs):
        """A JSON object, if no key occurs twice."""
        found = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f"{source}: {key!r} occurs twice.")
            found[key] = value
        return found

    text = read_text(source, "export it again")
    try:
        tree = json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: it is not JSON ({error}).") from error
    named = []
    if isinstance(tree, dict):
        named = [(f"entry {k!r}", {"id": k}, tree[k]) for k in tree]
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
        raise InputError(f"{source}: it is no object or list of utterances.")
    return rows


def _kaldi(source, data_folder):
    """wav.scp and utt2spk."""
    for name in ("utt2spk", "segments"):
        if (source / name).exists() != (name == "utt2spk"):
            raise InputError(
                f"{source}: it has {'no ' * (name == 'utt2spk')}{name}, and a "
                "Kaldi data folder with wav.scp and utt2spk alone is read."
            )
    speakers, rows = _kaldi_lines(source / "utt2spk"), []
    for utterance, (where, path) in _kaldi_lines(source / "wav.scp").items():
        if path.endswith("|") or path.startswith("|"):
            raise InputError(
                f"{where}: it is a command, and commands are not run; write "
                "its output to a file and name that."
            )
        if utterance not in speakers:
            raise InputError(
                f"{where}: {utterance} has no speaker in utt2spk; add it."
            )
        _, speaker = speakers[utterance]
        row = {"id": utterance, "path": path, "speaker": speaker}
        rows.append((where, row))
    return _located("Kaldi data folder", source / "wav.scp", rows, data_folder)


def _kaldi_lines(path):
    """Key -> (where, value) of a file with a key and a value a line."""
    found = {}
    lines = read_text(path, "correct the Kaldi data folder").split("\n")
    for number, line in enumerate(lines, start=1):
        where, parts = f"{path}, line {number}", line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) < 2:
            raise InputError(f"{where}: it has nothing after {parts[0]}.")
        key, value = parts
        if key in found:
            raise InputError(f"{where}: the ID {key!r} occurs twice.")
        found[key] = where, value.strip()
    if not found:
        raise InputError(f"{path}: it names nothing.")
    return found


def _located(kind, source, rows, data_folder):
    """Rows of a manifest as a Listing, with every file found."""
    columns = _columns(source, rows)
    base = root = os.path.abspath(data_folder or source.parent)
    listed = [_listed(where, row, columns) for where, row in rows]
    paths = [os.path.normpath(os.path.join(base, row.wav)) for row in listed]
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
            f"{source}: {outside[0]} is outside the data folder {base}; "
            "give a folder around all recordings."
        )
    if outside:
        root = os.path.commonpath([os.path.dirname(p) for p in paths])
    utterances = {}
    for (where, _), path, row in zip(rows, paths, listed):
        wav = name = Path(os.path.relpath(path, root)).as_posix()
        if row.start or row.stop:
            name = f"{wav}:{row.start}-{row.stop or ''}"
        name = row.id or name
        if name in utterances:
            raise InputError(f"{where}: the ID {name!r} occurs twice.")
        utterances[name] = row._replace(wav=wav, id=name)
    return Listing(kind, root, list(utterances.values()), [])


def _columns(source, rows):
    """The name of each column of COLUMNS, None where there is none."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    lower = {name.lower(): name for name in reversed(names)}
    columns = {}
    for what, aliases in COLUMNS.items():
        known = [lower[a] for a in aliases.split() if a in lower]
        columns[what] = known[0] if known else None
        if not known and what in ("path", "speaker"):
            raise InputError(
                f"{source}: no column gives the {what}; one of "
                f"{', '.join(aliases.split())} is needed, and there are "
                f"{', '.join(map(str, names))}."
            )
    return columns


def _listed(where, row, columns):
    """A row as Listed, with the path as it is written."""
    path, speaker, name, split, start, stop = (
        _text(where, row, columns[what]) for what in COLUMNS
    )
    for what, text in (("path", path), ("speaker", speaker)):
        if not text:
            raise InputError(f"{where}: the {what} is missing.")
    if columns["split"] is not None and split.lower() not in SPLITS:
        raise InputError(
            f"{where}: {columns['split']} is {split!r} but must be "
            "train, valid or test."
        )
    return Listed(
        _PLACEHOLDER.sub("", path, count=1),
        speaker,
        name,
        SPLITS.get(split.lower()),
        _samples(where, "start", start) or 0,
        _samples(where, "stop", stop),
    )


def _text(where, row, column):
    """A value of a manifest; empty where there is none."""
    value = row.get(column)
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
