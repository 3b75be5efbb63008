"""Listing the utterances of a corpus, however it is described.

A folder with a folder for each speaker, a list in CSV, TSV, JSON or JSON
lines, a Kaldi data folder, lhotse's manifests, or the lists of the authors'
code. No recording is opened here.
"""

import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import soundfile

from amsincnet_sb.dataio.columns import SPLITS, Columns, Listed
from amsincnet_sb.dataio.kaldi import file_of_pipe, kaldi_rows
from amsincnet_sb.dataio.lhotse_manifests import find_lhotse, lhotse_rows
from amsincnet_sb.dataio.lists import (
    corpus_files,
    csv_rows,
    delimiter,
    first_line,
    json_rows,
    on_disk,
)
from amsincnet_sb.dataio.manifest import check_speaker
from amsincnet_sb.dataio.scp import scp_rows
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import absolute
from amsincnet_sb.utils.names import is_unknown

__all__ = ["Listed", "Listing", "list_corpus"]

SUFFIXES = tuple(f".{name.lower()}" for name in soundfile.available_formats())
SUFFIXES += (".aif", ".aifc", ".oga", ".opus", ".snd", ".sph")
# Recordings that are not read, listed so that they are not lost silently.
SUFFIXES += tuple(
    ".3g2 .3gp .aac .amr .ape .m4a .m4b .mka .mkv .mov .mp1 .mp2 .mp4 .pcm "
    ".shn .spx .webm .wma .wv".split()
)
JSON_LINES = (".jsonl", ".ndjson", ".list", ".jsonl.gz")
SHOWN = 5  # speakers named as examples


class Listing(NamedTuple):
    """A corpus as :func:`list_corpus` finds it."""

    kind: str  # what it was taken for, in words
    data_folder: str  # absolute
    utterances: list  # of Listed
    left_out: list  # (file, reason)
    taken: tuple = ()  # how it was read: lines for the user
    notes: tuple = ()  # what is suspicious about it


class Patterns(NamedTuple):
    """Regular expressions that find a speaker or a group in a path."""

    speaker: re.Pattern | None = None
    group: re.Pattern | None = None


def list_corpus(
    source,
    data_folder=None,
    speaker_level=None,
    speaker_pattern=None,
    group=None,
):
    """Find out how a corpus is described, and list its utterances.

    Arguments
    ---------
    source : str or Path
        One of

        - a folder with a folder for each speaker, recordings at any depth
          below; or with ``train`` and ``test`` folders of that form;
        - a list with path and speaker of each recording, and possibly ``id``,
          ``split`` and times (see :mod:`amsincnet_sb.dataio.columns`):
          ``.csv``, ``.tsv``, ``.json``, or JSON lines in ``.json``,
          ``.jsonl``, ``.ndjson`` or ``.list``; SpeechBrain's, NeMo's and
          wespeaker's manifests are such files;
        - a Kaldi data folder with ``wav.scp``, ``utt2spk`` and possibly
          ``segments``; no command in ``wav.scp`` is run;
        - lhotse's recordings and supervisions, or cuts (``.jsonl``,
          ``.jsonl.gz``), or a folder of them;
        - a folder with one ``*train*.scp``, one ``*test*.scp`` and one
          ``*.npy`` dictionary of labels, as for the authors' code.
    data_folder : str or Path, optional
        What paths are relative to; the default is the folder of `source`.
    speaker_level : int, optional
        Of a folder: which level of folders names the speakers. The default
        is 1, the folders in `source` (or in ``train`` and ``test``).
    speaker_pattern, group : str, optional
        Regular expressions whose group, or the one called ``speaker`` or
        ``group``, is the speaker, or names what stays on one side of the
        split. They are searched in the file's name, or in the path if they
        have a ``/``. `group` may also be a column of the list.

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
    patterns = Patterns(_pattern("speaker", speaker_pattern), None)
    if not source.exists():
        raise InputError(
            f"{source}: there is no such file or folder; check the path."
        )
    if data_folder is not None:
        data_folder = os.path.expanduser(data_folder)
        if not os.path.isdir(data_folder):
            raise InputError(
                f"data folder {data_folder}: there is no such folder; check "
                "the path."
            )
    if speaker_level is not None and speaker_pattern is not None:
        raise InputError(
            "speaker_level and speaker_pattern both name the speakers; give "
            "one of them."
        )
    kind, origin, rows, left_out = _rows(source, data_folder)
    if rows is None:
        patterns = patterns._replace(group=_pattern("group", group))
        level = 1 if speaker_level is None else speaker_level
        listing = _folders(source, data_folder, level, patterns)
    elif speaker_level is not None:
        raise InputError(
            f"speaker_level is {speaker_level}, but {source} is a {kind}, not "
            "a folder of speakers; leave it out, or name the speakers with "
            "--speaker-pattern."
        )
    else:
        listing = _located(
            kind, origin, rows, left_out, data_folder, patterns, group
        )
    names = dict.fromkeys(row.speaker for row in listing.utterances)
    for name in names:
        check_speaker(name, source)
    return listing._replace(notes=(*listing.notes, *_confusable(names)))


def _confusable(names):
    """Notes about names that may not be meant."""
    same = {}
    for name in names:
        same.setdefault(" ".join(name.casefold().split()), []).append(name)
    notes = [
        f"{' and '.join(alike)} are taken for different speakers"
        for alike in same.values()
        if len(alike) > 1
    ]
    unknown = [*filter(is_unknown, names)]
    if unknown:
        notes.append(
            f"a speaker is called {unknown[0]}, as `amsincnet identify --unknown` "
            "calls nobody; leave these recordings out if they are of several "
            "people"
        )
    return notes


def _rows(source, data_folder):
    """(kind, file, rows, left out) of a list; rows are None for a folder."""
    if source.is_dir():
        lists = [
            sorted(source.glob(pattern))
            for pattern in ("*train*.scp", "*test*.scp", "*.npy")
        ]
        if all(len(found) == 1 for found in lists):
            lists = [found for (found,) in lists]
            rows = scp_rows(*lists, data_folder or source)
            return "folder of .scp lists and .npy labels", lists[0], rows, []
        if (source / "wav.scp").exists():
            kind = "Kaldi data folder"
            if (source / "segments").exists():
                kind += " with segments"
            return kind, source / "wav.scp", *kaldi_rows(source)
    name = source.name.lower()
    if source.is_dir() or name.endswith(JSON_LINES):
        manifests = find_lhotse(source)
        if manifests:
            kind = "lhotse manifest of " + ", ".join(
                f"{a.name} and {b.name}" if b else a.name for a, b in manifests
            )
            return kind, manifests[0][0], *lhotse_rows(manifests)
        if source.is_dir():
            return "", source, None, []
    if name.endswith((".json", *JSON_LINES)):
        rows = json_rows(source)
        kind = "JSON lines" if ", line " in rows[0][0] else "JSON"
        return f"{kind} manifest", source, rows, []
    if name.endswith((".csv", ".tsv")):
        (top, header), *rows = csv_rows(source, "export it again", ",;\t")
        if not rows:
            raise InputError(f"{source}: it has no rows below its header.")
        header = [
            name.strip() or f"column {i}" for i, name in enumerate(header, 1)
        ]
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise InputError(
                f"{top}: column {twice[0]!r} occurs twice; remove one."
            )
        kind = "CSV manifest with tabs, quotation marks as text"
        if not name.endswith(".tsv"):
            between = delimiter(first_line(source, ""))
            between = "tabs" if between == "\t" else f"{between!r}"
            kind = f"CSV manifest with {between} between values"
        rows = [
            (where, dict(zip(header, map(str.strip, row))))
            for where, row in rows
        ]
        return kind, source, rows, []
    raise InputError(
        f"{source}: it is neither a folder nor a .csv, .tsv, .json or .jsonl "
        "manifest; give one of these."
    )


def _folders(source, data_folder, level, patterns):
    """A folder for each speaker, possibly within train and test."""
    if level < 1:
        raise InputError(
            f"speaker_level is {level} but must be 1 (the folders in {source}) "
            "or more."
        )
    root = absolute(data_folder or source)
    prefix = os.path.relpath(absolute(source), root)
    if prefix.split(os.sep)[0] == os.pardir:
        raise InputError(
            f"{source} is outside the data folder {root}; give a folder "
            "around it."
        )
    prefix = "" if prefix == os.curdir else f"{Path(prefix).as_posix()}/"
    names = [name for name, *_ in corpus_files(source, SUFFIXES)]
    tops = {name.split("/")[0].lower() for name in names if "/" in name}
    divided = "train" in tops and tops <= SPLITS.keys()
    place = level - 1 + divided
    utterances, left_out, folders = [], [], {}
    for name in names:
        *above, _ = name.split("/")
        split = SPLITS[above[0].lower()] if divided and above else None
        if patterns.speaker:
            speaker = _found(patterns, "speaker", name)
            reason = "speaker_pattern finds no speaker in its name"
        else:
            speaker = above[place] if len(above) > place else None
            reason = "it is in no speaker's folder"
        if speaker is None or divided and split is None:
            left_out.append((prefix + name, reason))
            continue
        speaker = unicodedata.normalize("NFC", speaker)
        group = _found(patterns, "group", name) or ""
        folders.setdefault(speaker, []).append(above[divided:])
        utterances.append(
            Listed(prefix + name, speaker, name, split, group=group)
        )
    if not utterances:
        raise InputError(_no_speakers(source, names, level, patterns))
    _check_group(patterns.group, utterances)
    kind = "folder with a folder for each speaker"
    if divided:
        kind = "folder with train and test folders of speakers"
    taken = f"speakers: folders of level {level}"
    if patterns.speaker:
        kind = "folder with speakers in the names of its files"
        taken = f"speakers: {patterns.speaker.pattern}"
        notes = []
    else:
        notes = _suspicions(folders, level)
    taken = [f"{len(names)} recordings", f"{taken} ({_some(folders)})"]
    return Listing(kind, root, utterances, left_out, tuple(taken), tuple(notes))


def _no_speakers(source, names, level, patterns):
    if names and patterns.speaker:
        return (
            f"{source}: speaker_pattern {patterns.speaker.pattern!r} finds no "
            f"speaker in any name, such as {names[0]}; correct it."
        )
    if names and level > 1:
        return (
            f"{source} has no recordings in folders of level {level}, such as "
            f"{names[0]}; lower --speaker-level."
        )
    return (
        f"{source} has no recordings in folders of speakers; give a folder "
        "that holds a folder for each speaker, a Kaldi data folder, or a "
        "manifest, or name the speakers with --speaker-pattern."
    )


def _suspicions(folders, level):
    """Notes about folders that may not be those of speakers."""
    notes, inner = [], {}
    for speaker, paths in folders.items():
        below = {path[level] for path in paths if len(path) > level}
        if all(len(path) > level for path in paths) and len(below) > 1:
            inner[speaker] = below
    if inner:
        count = sum(map(len, inner.values()))
        notes.append(
            f"{len(inner)} of {len(folders)} speakers ({_some(inner)}) have "
            f"all recordings in folders within theirs ({count}, such as "
            f"{min(min(inner.values(), key=min))}); if those are the speakers, "
            f"use --speaker-level {level + 1}"
        )
    apart = {
        speaker: places
        for speaker, paths in folders.items()
        if len(places := {"/".join(path[:level]) for path in paths}) > 1
    }
    if apart:
        speaker, places = next(iter(apart.items()))
        notes.append(
            f"{len(apart)} speakers have folders in several places and are "
            f"taken for one person each, such as {speaker}: "
            f"{_some(sorted(places))}"
        )
    return notes


def _located(kind, source, rows, left_out, data_folder, patterns, group):
    """Rows of a list as a Listing, with every file found."""
    names = {name for _, row in rows for name in row}
    column = group if group in names else None
    if column is None:
        patterns = patterns._replace(group=_pattern("group", group))
    columns = Columns(source, rows, patterns.speaker is None, column)
    base = root = absolute(data_folder or source.parent)
    listed = []
    for where, row in rows:
        read = columns.read(where, row)
        path, channel = file_of_pipe(where, read.wav)
        if channel:
            read = read._replace(claims=read.claims._replace(channel=channel))
        listed.append(read._replace(wav=path))
    paths, placeholder = on_disk(source, base, [row.wav for row in listed])
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
        row = _by_patterns(patterns, row._replace(wav=wav, id=name))
        if not row.speaker:
            left_out.append((wav, "speaker_pattern finds no speaker in it"))
            continue
        utterances[name] = row
    utterances = list(utterances.values())
    if not utterances:
        raise InputError(_no_speakers(source, [listed[0].wav], 1, patterns))
    _check_group(patterns.group, utterances)
    taken = [f"{len(rows)} rows", columns.describe()]
    if patterns.speaker:
        taken.append(f"speakers: {patterns.speaker.pattern}")
    if placeholder:
        taken.append(f"{placeholder} in paths is read as {base}")
    return Listing(kind, root, utterances, left_out, tuple(taken))


def _by_patterns(patterns, row):
    """A row with the speaker and the group that its path gives."""
    if patterns.speaker:
        speaker = _found(patterns, "speaker", row.wav)
        row = row._replace(speaker=speaker or "")
    if patterns.group:
        group = _found(patterns, "group", row.wav)
        row = row._replace(group=group or "")
    return row


def _pattern(what, text):
    """A regular expression that finds a speaker or a group; None without."""
    if text is None:
        return None
    option = "speaker_pattern" if what == "speaker" else "group"
    also = "" if what == "speaker" else "a column of the list or "
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"{option} is {text!r} but must be {also}a regular expression "
            f"({error})."
        ) from error
    if what not in pattern.groupindex and pattern.groups != 1:
        raise InputError(
            f"{option} is {text!r} but must be {also}a regular expression "
            f"with one group in brackets, or one called {what}, such as "
            "'([^_]+)_'."
        )
    return pattern


def _found(patterns, what, path):
    """What the pattern of a speaker or group finds in a path, or None."""
    pattern = getattr(patterns, what)
    if pattern is None:
        return None
    found = pattern.search(_searched(pattern, path))
    if not found:
        return None
    text = found[what if what in pattern.groupindex else 1]
    return unicodedata.normalize("NFC", (text or "").strip()) or None


def _searched(pattern, path):
    """The part of a path that a pattern is looked for in."""
    return path if "/" in pattern.pattern else path.rsplit("/", 1)[-1]


def _check_group(pattern, utterances):
    if pattern and not any(row.group for row in utterances):
        searched = _searched(pattern, utterances[0].wav)
        raise InputError(
            f"group is {pattern.pattern!r}, which is no column and finds "
            f"nothing in any name, such as {searched}; correct it (folders are "
            "searched by a pattern with a / in it)."
        )


def _some(names):
    """The first few of some names, and whether there are more."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
