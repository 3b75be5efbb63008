"""Manifests, an utterance a row, and what they were made from.

A manifest is a CSV file as SpeechBrain's ``DynamicItemDataset.from_csv`` reads,
with the columns ``ID, duration, wav, start, stop, spk_id``. Paths start with
``$data_root``, SpeechBrain's placeholder for CSV files (``{data_root}`` is the
one for JSON), so a corpus can move without being prepared again.

A preparation is trusted later only if its `prepare.json`, written last, still
agrees with the corpus, the options and the manifests beside it.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from amsincnet_sb.dataio.lists import csv_rows
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write
from amsincnet_sb.utils.locks import sole_process
from amsincnet_sb.utils.reading import read_json

__all__ = [
    "Provenance",
    "Utterance",
    "check_speaker",
    "check_unedited",
    "earlier_preparation",
    "fingerprint",
    "manifest_items",
    "read_manifest",
    "write_manifest",
    "write_preparation",
]

COLUMNS = ["ID", "duration", "wav", "start", "stop", "spk_id"]
ROOT = "$data_root/"
FORMAT = 1  # of prepare.json and of what the manifests mean
SHOWN = 10  # left-out files named in the log
LISTED = 10_000  # left-out files in prepare.json
LARGEST = 2**26  # bytes of prepare.json, which may list many files

# SpeechBrain would take $ for a placeholder; the rest does not survive CSV.
_UNUSABLE = re.compile(r"[$\x00-\x1f\x7f\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,15}")


def check_speaker(name, where):
    """Refuse a speaker's name that manifests cannot keep."""
    if not name or name != name.strip() or _UNUSABLE.search(name + " "):
        raise InputError(
            f"{where}: speaker {name!r} must be text without $, control "
            "characters or spaces at its ends; rename the speaker."
        )


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest.

    Raises InputError if a value cannot stand in a manifest, or `wav` leaves
    the corpus folder.

    Example
    -------
    >>> Utterance("a-1", 0.5, "a/1.wav", 8000, 16000, "a").stop
    16000
    """

    id: str  # unique in its manifest
    duration: float  # seconds from start to stop
    wav: str  # relative to the corpus folder, with forward slashes
    start: int  # first sample, at the file's own rate
    stop: int  # the one after the last
    spk_id: str  # who speaks

    def __post_init__(self):
        for name in ("id", "wav", "spk_id"):
            text = getattr(self, name)
            if not text or text != text.strip() or _UNUSABLE.search(text):
                raise InputError(
                    f"{name} is {text!r} but must be text without $, control "
                    "characters or spaces at its ends."
                )
        parts = self.wav.replace("\\", "/").split("/")
        if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
            raise InputError(
                f"wav is {self.wav!r} but must be a path inside the corpus "
                "folder."
            )
        if not 0 <= self.start < self.stop:
            raise InputError(
                f"start and stop are {self.start} and {self.stop} but must "
                "satisfy 0 <= start < stop."
            )
        if not 0 < self.duration < math.inf:
            raise InputError(
                f"duration is {self.duration} but must be positive seconds."
            )


def write_manifest(path, utterances):
    """Write a manifest, whole or not at all.

    The order of the utterances is that in which labels are to be given; no
    two may share an ID.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> write_manifest(path, [Utterance("a-1", 1.0, "a/1.wav", 0, 9, "a")])
    >>> print(path.read_text(), end="")
    ID,duration,wav,start,stop,spk_id
    a-1,1.0,$data_root/a/1.wav,0,9,a
    >>> read_manifest(path)[0].stop
    9
    """
    with ExitStack() as place:
        _begin_manifest(place, path, utterances)


def _begin_manifest(place, path, utterances):
    """Write a manifest beside its place, given it when ``place`` is left."""
    file, seen = place.enter_context(atomic_write(path)), set()
    for u in _write_rows(file, utterances):
        if u.id in seen:
            raise InputError(f"{path}: the ID {u.id!r} occurs twice.")
        seen.add(u.id)
    _flush(file)


def _flush(file):
    """Have it all on the disk, or find now that the disk is full."""
    file.flush()
    os.fsync(file.fileno())


def _write_rows(file, utterances):
    """Write a manifest; yields each Utterance before its row."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for u in utterances:
        yield u
        row = [u.id, u.duration, ROOT + u.wav, u.start, u.stop, u.spk_id]
        writer.writerow(row)


def read_manifest(path, speakers=None):
    """Read a manifest as a list of Utterance, and check every row.

    The columns of :func:`write_manifest` may stand in any order and among
    others. Raises InputError, with the line, if one is missing, an ID occurs
    twice, a row is no Utterance, or its speaker is none of ``speakers``, those
    that are trained.
    """
    rows = csv_rows(path, "prepare the corpus first")
    _, header = next(rows)
    wrong = [name for name in COLUMNS if header.count(name) != 1]
    if wrong:
        raise InputError(
            f"{path}, line 1: the columns {', '.join(COLUMNS)} must "
            f"occur once each, which {', '.join(wrong)} does not."
        )
    utterances = {}
    for where, row in rows:
        try:
            utterance = _utterance(dict(zip(header, row)))
            if utterance.id in utterances:
                raise InputError(f"ID {utterance.id!r} occurs twice.")
            if speakers is not None and utterance.spk_id not in speakers:
                raise InputError(
                    f"speaker {utterance.spk_id!r} has no training utterance; "
                    "remove the row, or add some to the training manifest."
                )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        utterances[utterance.id] = utterance
    return list(utterances.values())


def manifest_items(path, data_folder):
    """A manifest as the data of SpeechBrain's ``DynamicItemDataset``.

    What :func:`read_manifest` accepts, ``from_csv`` may not: it stumbles over a
    byte order mark, and over a $ in columns that nobody uses.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> write_manifest(path, [Utterance("a-1", 1.0, "a/1.wav", 0, 9, "a")])
    >>> manifest_items(path, "/corpus")["a-1"]["wav"]
    '/corpus/a/1.wav'
    """
    items = {u.id: asdict(u) for u in read_manifest(path)}
    for item in items.values():
        del item["id"]  # SpeechBrain's own name for the key
        item["wav"] = f"{data_folder}/{item['wav']}"
    return items


def _utterance(values):
    for name in ("start", "stop"):
        if not _DIGITS.fullmatch(values[name]):
            raise InputError(
                f"{name} is {values[name]!r} but must be a whole number."
            )
    duration, wav = values["duration"], values["wav"]
    try:
        seconds = float(duration)
    except ValueError as error:
        raise InputError(
            f"duration is {duration!r} but must be a number."
        ) from error
    if not wav.startswith(ROOT):
        raise InputError(f"wav is {wav!r} but must start with {ROOT}.")
    return Utterance(
        values["ID"],
        seconds,
        wav[len(ROOT) :],
        int(values["start"]),
        int(values["stop"]),
        values["spk_id"],
    )


def write_preparation(paths, splits, summary, keep=""):
    """Write manifests and, last, the prepare.json that makes them complete.

    Nothing is written where a file would replace one that somebody wrote or
    changed (see :func:`check_unedited` and :func:`earlier_preparation`), or
    another process is writing. Nothing is replaced before all is on the disk.

    Arguments
    ---------
    paths, splits : dict
        ``train``, ``valid`` and ``test`` -> CSV file, or list of Utterance.
        prepare.json is written beside ``train``. An empty split is not
        written, and that of an earlier preparation removed.
    summary : Provenance
        Returned with its counts filled in.
    keep : str
        For the message: what to do to keep a changed manifest.
    """
    folder = Path(paths["train"]).parent
    with sole_process(folder):
        earlier = earlier_preparation(folder)
        stale = set(earlier.manifests if earlier else ())
        made = {s: _hash_rows(own) for s, own in splits.items() if own}
        mine = {s: path for s, path in paths.items() if s in made or s in stale}
        check_unedited(mine, earlier, keep, made)
        summary.counts = {s: _totals(own) for s, own in splits.items() if own}
        summary.manifests, summary.written = made, []
        known = earlier.known if earlier else set()
        with ExitStack() as place:
            # It is left in reverse order: prepare.json takes its place last.
            path = folder / Provenance.FILE
            summary.dump(place.enter_context(atomic_write(path)))
            for split in made:
                _begin_manifest(place, paths[split], splits[split])
            # Not a finished preparation until the end, and what it has written
            # by then can still be told from what somebody else has.
            written = sorted(known | {*made.values()})
            replace(summary, written=written).write(folder, {})
            for split in stale - made.keys():
                if paths[split]:
                    Path(paths[split]).unlink(missing_ok=True)
    return summary


def earlier_preparation(folder):
    """The Provenance of a preparation in a folder, finished or not, or None.

    Raises InputError where prepare.json is somebody else's: it would be lost.
    """
    earlier, path = Provenance.read(folder), Path(folder, Provenance.FILE)
    if not earlier and os.path.lexists(path):
        raise InputError(
            f"{path} exists and was not written by a preparation; it is not "
            "replaced: move it away, or give another folder."
        )
    return earlier


def check_unedited(paths, earlier, keep="", made=None):
    """Refuse to lose a manifest that somebody wrote or changed.

    Arguments
    ---------
    paths : dict
        Split -> CSV file that is to be replaced or removed.
    earlier : Provenance or None
        Of the preparation that wrote it.
    keep : str
        For the message: what to do to keep a changed manifest.
    made : dict
        Split -> hash of what is to be written: the same is not lost.
    """
    for split, path in paths.items():
        if not path or not Path(path).exists():
            continue
        known = {(made or {}).get(split)} | (
            earlier.known if earlier else set()
        )
        if _hash(path) not in known:
            done = "was changed since it was prepared"
            if not earlier:
                done = "exists and was not written by a preparation"
            raise InputError(
                f"{path} {done}; it is not replaced: move it away"
                f"{', or ' * bool(keep)}{keep}."
            )


def fingerprint(options, lines):
    """Hash what a preparation depends on: options (JSON) and lines of text."""
    digest = hashlib.sha256(
        json.dumps([FORMAT, options], sort_keys=True).encode()
    )
    for line in lines:
        digest.update(f"\n{line}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _totals(utterances):
    return {
        "speakers": len({u.spk_id for u in utterances}),
        "sentences": len(utterances),
        "hours": sum(u.duration for u in utterances) / 3600,
    }


@dataclass
class Provenance:
    """What a set of manifests was made from; kept in `prepare.json`."""

    options: dict  # of the preparation
    fingerprint: str  # see the function
    counts: dict = field(default_factory=dict)  # of each split
    left_out: list = field(default_factory=list)  # (file, reason)
    notes: list = field(default_factory=list)  # oddities of what was used
    manifests: dict = field(default_factory=dict)  # split -> hash; by write()
    written: list = field(default_factory=list)  # hashes, while unfinished
    unlisted: int = 0  # left-out files beyond LISTED; by dump()

    FILE = "prepare.json"

    def write(self, folder, manifests):
        """Write `prepare.json`; `manifests` are split -> CSV file in place."""
        self.manifests = {k: _hash(path) for k, path in manifests.items()}
        with atomic_write(Path(folder) / self.FILE) as file:
            self.dump(file)

    def dump(self, file):
        """Write it to an open file, and that to the disk.

        Of very many files that were left out, it keeps the first alone.
        """
        self.unlisted += len(self.left_out[LISTED:])
        del self.left_out[LISTED:]
        json.dump({"format": FORMAT, **asdict(self)}, file, indent=1)
        file.write("\n")
        _flush(file)

    @classmethod
    def read(cls, folder):
        """Read `prepare.json`; None if there is none that can be trusted."""
        try:
            path = Path(folder) / cls.FILE
            stored = read_json(path, "prepare again", LARGEST)
            if stored.pop("format") != FORMAT:
                return None
            stored["left_out"] = [tuple(row) for row in stored["left_out"]]
            found = cls(**stored)
            found.known, found.report()  # noqa: B018 - values of other types
            return found
        except Exception:  # whatever a file that is not ours makes them raise
            return None

    @property
    def known(self):
        """Hashes of the manifests that a preparation may have left."""
        return {*self.manifests.values(), *self.written}

    def matches(self, current, manifests):
        """Whether fingerprint and manifests (see write) are still the same."""
        try:
            found = {k: _hash(path) for k, path in manifests.items()}
        except OSError:
            return False
        return self.fingerprint == current and self.manifests == found

    def report(self):
        """The preparation in a few lines, for a log."""
        lines = [
            f"{split}: {n['speakers']} speakers, {n['sentences']} utterances, "
            f"{n['hours']:.2f} hours"
            for split, n in self.counts.items()
        ]
        events = [f"left out {file}: {why}" for file, why in self.left_out]
        for kind, messages in (("left out", events), ("noted", self.notes)):
            lines += map(_printable, messages[:SHOWN])
            if len(messages) > SHOWN:
                more = len(messages) - SHOWN
                lines.append(f"and {more} more {kind}, listed in {self.FILE}")
        if self.unlisted:
            lines.append(f"and {self.unlisted} more left out, listed nowhere")
        return lines


def _printable(text):
    """Text whose control characters, of names of files, are spelt out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text
    )


def _hash_rows(utterances):
    """The hash of a manifest before it is written."""
    text, digest = io.StringIO(), hashlib.sha256()
    for _ in _write_rows(text, utterances):
        digest.update(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    digest.update(text.getvalue().encode())
    return digest.hexdigest()


def _hash(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
