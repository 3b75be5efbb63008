"""Listing the files of a folder, and reading lists in CSV and text files."""

import csv
import os
from contextlib import contextmanager

from amsincnet_sb.utils.errors import InputError

__all__ = ["corpus_files", "csv_rows", "read_text"]


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
                    if entry.is_dir():
                        pending.append((name + "/", entry.path, above | {here}))
                    elif lower.endswith(suffixes):
                        files.append((name, *_size(entry)))
        except OSError as error:
            raise InputError(
                f"{path}: the folder cannot be listed ({error.strerror}); "
                "check the path and its permissions."
            ) from error
    return sorted(files)


def _size(entry):
    try:
        about = entry.stat()
    except FileNotFoundError:  # a broken link: reading it will say so
        return -1, 0
    return about.st_size, about.st_mtime_ns


def read_text(path, advice):
    """The text of a list; `advice` says what to do if it cannot be read."""
    with _readable(path, advice) as file:
        return file.read()


def csv_rows(path, advice, delimiters=","):
    """Yield (file and line, list of str) of a CSV file, the header first.

    Of the `delimiters`, the one that is most frequent in the header separates
    the values; `advice` says what to do where the file cannot be read. Raises
    InputError if it is no CSV file in UTF-8, or a row is longer or shorter
    than the header.
    """
    with _readable(path, advice) as file:
        head = file.readline()
        file.seek(0)
        delimiter = max(delimiters, key=head.count)
        reader = csv.reader(
            file, delimiter=delimiter, skipinitialspace=True, strict=True
        )
        header = next(reader, [])
        yield f"{path}, line 1", header
        for row in filter(None, reader):  # blank lines are no rows
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise InputError(
                    f"{where}: there are {len(row)} values for {len(header)} "
                    "columns."
                )
            yield where, row


@contextmanager
def _readable(path, advice):
    """A text file; InputError for whatever goes wrong while it is read."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read ({error.strerror}); {advice}."
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path}: it is not text in UTF-8 ({error.reason}); {advice}."
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{path}: it is not a CSV file ({error}); {advice}."
        ) from error
