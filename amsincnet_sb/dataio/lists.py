"""Listing the files of a folder, and reading lists in CSV, JSON and text."""

import csv
import gzip
import json
import os
import re
import unicodedata
import zlib
from contextlib import contextmanager

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file

__all__ = [
    "Spellings",
    "corpus_files",
    "csv_rows",
    "delimiter",
    "first_line",
    "json_rows",
    "on_disk",
    "read_text",
    "text_lines",
]

# JSON lines compress ten- to thirtyfold; more than this is no list.
MAX_EXPANSION = 200
# SpeechBrain's placeholders: $data_root in CSV files, {data_root} in JSON.
_PLACEHOLDER = re.compile(r"(?:\$(\w+)|\$?\{(\w+)\})[/\\]+")


def corpus_files(folder, suffixes):
    """List the files of a corpus, quickly and in a fixed order.

    Hidden files are passed over; links are followed, except back to a folder
    that they lie in. Raises InputError if a folder cannot be listed.

    Arguments
    ---------
    folder : str or os.PathLike
    suffixes : tuple of str
        Such as ``(".wav", ".wrd")``, lower case; names match in any case.

    Returns
    -------
    list of tuple
        (path relative to `folder` with forward slashes, size in bytes,
        modification time in ns), sorted. A broken link has size -1.
    """
    files, pending = [], [("", os.fspath(folder), frozenset())]
    while pending:
        prefix, path, above = pending.pop()
        try:
            about = os.stat(path)
            here = about.st_dev, about.st_ino
            if here in above:
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    name, lower = prefix + entry.name, entry.name.lower()
                    if lower.startswith("."):
                        continue
                    if _is_folder(entry):
                        pending.append((name + "/", entry.path, above | {here}))
                    elif lower.endswith(suffixes):
                        files.append((name, *_size(entry)))
        except OSError as error:
            raise InputError(
                f"{path}: the folder cannot be listed ({error.strerror}); "
                "check the path and its permissions."
            ) from error
    return sorted(files)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry):
    try:
        about = entry.stat()
    except OSError:  # a broken link: reading it will say so
        return -1, 0
    return about.st_size, about.st_mtime_ns


class Spellings:
    """Finds paths that a list spells otherwise than the disk does.

    Arguments
    ---------
    root : str or Path
        What paths are relative to.
    fold : callable
        Makes the same of both spellings of a name, such as ``str.lower``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "A.WAV").touch()
    >>> Spellings(folder, str.lower).find("a.wav")
    'A.WAV'
    """

    def __init__(self, root, fold):
        self.root, self.fold, self.folders = os.fspath(root), fold, {}

    def find(self, path):
        """The path as it is on the disk, or else as it is given."""
        if os.path.exists(os.path.join(self.root, path)):
            return path
        found = "/" if path.startswith("/") else ""
        for part in filter(None, path.split("/")):
            names = self._names(os.path.join(self.root, found))
            found = os.path.join(found, names.get(self.fold(part), part))
        return found

    def _names(self, folder):
        if folder not in self.folders:
            try:
                names = os.listdir(folder)
            except (OSError, ValueError):  # ValueError: no path at all
                names = []
            self.folders[folder] = {self.fold(name): name for name in names}
        return self.folders[folder]


def on_disk(source, base, names):
    """Paths as the disk spells them: / for \\, one form of Unicode.

    One that is not there may begin with ``~``, or with SpeechBrain's
    placeholder, which then stands for ``base``.

    Returns
    -------
    list of str
        Absolute paths, of what exists and what does not.
    str or None
        The placeholder, as it is written first.
    """
    spellings = Spellings(base, lambda n: unicodedata.normalize("NFC", n))
    paths, placeholders = [], {}
    for name in names:
        path = os.path.normpath(os.path.join(base, name))
        if not os.path.isfile(path):
            path = _spelt(base, spellings, name)
        if not os.path.isfile(path):
            found = _PLACEHOLDER.match(name)
            if found:
                written = found[0].rstrip("/\\")
                placeholders.setdefault(found[1] or found[2], written)
                name = name[found.end() :]
            path = _spelt(base, spellings, _at_home(name))
        paths.append(path)
    if len(placeholders) > 1:
        first, other, *_ = placeholders.values()
        raise InputError(
            f"{source}: paths begin with {first} and with {other}, and one "
            "data folder cannot stand for both; write the folders themselves."
        )
    return paths, next(iter(placeholders.values()), None)


def _at_home(name):
    try:
        return os.path.expanduser(name)
    except ValueError:  # no path at all
        return name


def _spelt(base, spellings, name):
    found = spellings.find(name.replace("\\", "/"))
    return os.path.normpath(os.path.join(base, found))


def read_text(path, advice):
    """The text of a list; `advice` says what to do if it cannot be read."""
    with _readable(path, advice) as file:
        return file.read()


def first_line(path, advice):
    """The first line that is not blank, or the first mebibyte of it."""
    with _readable(path, advice) as file:
        return _not_blank(file)


def _not_blank(file):
    while line := file.readline(2**20):
        if line.strip():
            break
    return line


def text_lines(path, advice):
    """(file and line, text) of each line that is not blank."""
    lines = enumerate(read_text(path, advice).split("\n"), start=1)
    return [(f"{path}, line {n}", text) for n, text in lines if text.strip()]


def csv_rows(path, advice, delimiters=","):
    """Yield (file and line, list of str) of a CSV file, the header first.

    Of the `delimiters`, the one that is most frequent in the header separates
    the values; `advice` says what to do where the file cannot be read. In a
    ``.tsv`` file tabs do, and quotation marks are text. Raises InputError if
    it is no CSV file in UTF-8, a row is longer or shorter than the header, or
    a value runs over several lines: two stray quotation marks would swallow
    the rows between them.
    """
    is_plain_file(path)  # a pipe would block
    with _readable(path, advice) as file:
        if str(path).lower().endswith(".tsv"):
            style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        else:
            style = {"delimiter": delimiter(_not_blank(file), delimiters)}
            style["skipinitialspace"] = True
        file.seek(0)
        reader = csv.reader(file, strict=True, **style)
        header, before = None, 0
        while True:
            where = f"{path}, line {before + 1}"
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"{where}: it is not a CSV file ({error}); {advice}."
                ) from error
            if row is None:
                break
            lines, before = reader.line_num - before, reader.line_num
            if len(row) < 2 and not "".join(row).strip():  # a blank line
                continue
            if lines > 1 and header:
                raise InputError(
                    f"{where}: a value in quotation marks runs on to line "
                    f"{before}; remove its line breaks or, if quotation marks "
                    "are text here, save it as .tsv with tabs."
                )
            header = header or row
            if len(row) != len(header):
                raise InputError(
                    f"{where}: there are {len(row)} values for {len(header)} "
                    "columns."
                )
            yield where, row
        if header is None:
            yield f"{path}, line 1", []


def delimiter(header, delimiters=",;\t"):
    """Which of some characters separates the values of a header.

    Example
    -------
    >>> delimiter("path;speaker, or so;start")
    ';'
    """
    return max(delimiters, key=header.count)


def json_rows(path):
    """(where, dictionary) of each entry of JSON, or of JSON lines.

    JSON is an object or list of objects, or a single one; the key of an
    object becomes the entry's ``id``. JSON lines have an object a line, and
    may be compressed (``.gz``). Raises InputError for anything else, and
    where a key occurs twice.
    """
    is_plain_file(path)  # a pipe would block
    text, lines = read_text(path, "export it again"), None
    if ".json" != os.path.splitext(path)[1].lower():
        lines = text.split("\n")
    elif "\n" in text.strip():
        first = text.strip().split("\n")[0]
        # NeMo calls JSON lines .json.
        if isinstance(_json(path, first, quiet=True), dict):
            lines = text.split("\n")
    if lines is not None:
        numbered = [(f"line {n}", x) for n, x in enumerate(lines, 1)]
        named = [
            (where, {}, _json(f"{path}, {where}", line))
            for where, line in numbered
            if line.strip()
        ]
    else:
        named = _entries(_json(path, text))
    rows = []
    for where, given, entry in named:
        if not isinstance(entry, dict):
            raise InputError(
                f"{path}, {where}: it must be an object with path and speaker."
            )
        rows.append((f"{path}, {where}", {**given, **entry}))
    if not rows:
        raise InputError(f"{path}: it is no object or list of utterances.")
    return rows


def _entries(tree):
    if isinstance(tree, dict):
        if not all(isinstance(entry, dict) for entry in tree.values()):
            return [("entry 1", {}, tree)]
        return [(f"entry {k!r}", {"id": k}, tree[k]) for k in tree]
    if isinstance(tree, list):
        return [(f"entry {i}", {}, entry) for i, entry in enumerate(tree, 1)]
    return []


def _json(where, text, quiet=False):
    """A JSON text; InputError, or None if quiet, where it is none."""

    def unique(pairs):
        """A JSON object, if no key occurs twice."""
        found = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f"{where}: {key!r} occurs twice.")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        if quiet:
            return None
        raise InputError(f"{where}: it is not JSON ({error}).") from error


@contextmanager
def _readable(path, advice):
    """A text file; InputError for whatever goes wrong while it is read."""
    compressed = str(path).lower().endswith(".gz")
    try:
        if compressed:
            _check_expansion(path)
        opened = gzip.open if compressed else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: it is damaged ({error}); {advice}."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read ({error.strerror}); {advice}."
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path}: it is not text in UTF-8 ({error.reason}); {advice}."
        ) from error


def _check_expansion(path):
    """Refuse a small file that would fill the memory."""
    allowed = MAX_EXPANSION * os.path.getsize(path) + 2**20
    with gzip.open(path) as file:
        while block := file.read(2**20):
            allowed -= len(block)
            if allowed < 0:
                raise InputError(
                    f"{path}: it expands more than {MAX_EXPANSION}fold, as no "
                    "list does; check the file."
                )
