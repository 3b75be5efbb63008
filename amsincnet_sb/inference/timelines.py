"""Segments as text: a table, RTTM, labels of Audacity, CSV."""

import csv
import io
import os
import re

from amsincnet_sb.inference.segments import Segment
from amsincnet_sb.utils.files import spreadsheet_cell

__all__ = ["FORMATS", "as_csv", "as_labels", "as_row", "as_rttm"]


def clock(seconds):
    """Seconds as a person reads them.

    Example
    -------
    >>> clock(3725.5), clock(5.25)
    ('1:02:05.50', '0:05.25')
    """
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{front}:{rest // 100:02}.{rest % 100:02}"


def as_row(segment):
    """A row of the table on a terminal; of one that goes on, without an end."""
    if segment.end is None:
        return f"{clock(segment.start):>10} {'…':>10}  {segment.speaker}"
    return (
        f"{clock(segment.start):>10} {clock(segment.end):>10}  "
        f"{segment.speaker:<20} {segment.probability:6.1%}"
    )


def as_rttm(segments, file):
    """NIST's RTTM, which scoring tools read; spaces in names become ``_``.

    Example
    -------
    >>> print(
    ...     as_rttm([Segment(0, 1.5, "ann b", 0.9, 1.4, "bob", 1)], "x/a.wav")
    ... )
    SPEAKER a 1 0.00 1.50 <NA> <NA> ann_b 0.900 <NA>
    <BLANKLINE>
    """
    stem = os.path.splitext(os.path.basename(file))[0]
    file = _word(stem if stem.strip("-") else "stdin")
    return "".join(
        f"SPEAKER {file} 1 {s.start:.2f} {s.end - s.start:.2f} <NA> <NA> "
        f"{_word(s.speaker)} {s.probability:.3f} <NA>\n"
        for s in segments
    )


def as_labels(segments, file=None):
    """A label track of Audacity: start, end and name, with tabs between."""
    return "".join(
        f"{s.start:.2f}\t{s.end:.2f}\t{s.speaker}\n" for s in segments
    )


def as_csv(segments, file=None, header=True):
    """A CSV with a column for each field."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    if header:
        rows.writerow(Segment._fields)
    for row in segments:
        cells = (spreadsheet_cell(x) if type(x) is str else x for x in row)
        rows.writerow(cells)
    return text.getvalue()


FORMATS = {"rttm": as_rttm, "labels": as_labels, "csv": as_csv}


def _word(name):
    return re.sub(r"\s", "_", name) or "_"
