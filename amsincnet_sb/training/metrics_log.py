"""``metrics.jsonl``: the evaluations of a run, one JSON object per line."""

import json
import os
import re

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, is_plain_file
from amsincnet_sb.utils.reading import read_text

__all__ = ["MetricsLog"]

NUMBERS = re.compile("epoch|step|.*error|.*loss")
MAX_NUMBER = float("inf")  # JSON's whole numbers may be larger


class MetricsLog:
    """Reads and writes the evaluations of a run, in the file ``path``.

    SpeechBrain's FileTrainLogger writes text for people and only appends;
    this file can be read by programs, and a run that is resumed removes what
    it is about to do again.

    Example
    -------
    >>> log = MetricsLog(getfixture("tmp_path") / "metrics.jsonl")
    >>> log.append(step=100, frame_error=50.0)
    >>> log.append(step=200, frame_error=40.0)
    >>> log.rewind(150)
    >>> log.records()
    [{'step': 100, 'frame_error': 50.0}]
    """

    def __init__(self, path):
        self.path = os.fspath(path)

    def records(self):
        """All records, a list of dict.

        An InputError if a line is not a JSON object, or a value in it is not
        what :meth:`append` writes. A last line without its newline, as a
        killed process leaves it, is ignored.
        """
        if not is_plain_file(self.path):
            return []
        lines = read_text(self.path).split("\n")
        records = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise InputError(
                    f"{self.path}, line {number}: this is not a JSON object."
                )
            for key, value in record.items():
                if not _is_right(key, value):
                    raise InputError(
                        f"{self.path}, line {number}: {key} is not a number."
                    )
            records.append(record)
        return records

    def append(self, **record):
        """Add a record of numbers and strings.

        An evaluation that is done again (same epoch, step and split) replaces
        its earlier record and keeps those of its fields that are not given,
        and the seconds of the training that it belongs to. Figures of the
        training that are not given are those of the step's other records.
        """
        step = record.get("epoch"), record.get("step")
        others, training = [], {}
        for earlier in self.records():
            same_step = (earlier.get("epoch"), earlier.get("step")) == step
            if same_step:
                training |= _figures_of_training(earlier)
            if same_step and earlier.get("split") == record.get("split"):
                if "train_loss" not in record and "seconds" in earlier:
                    record["seconds"] = earlier["seconds"]
                record = {**earlier, **record}
            else:
                others.append(earlier)
        for name, value in training.items():
            record.setdefault(name, value)
        self._write([*others, record])

    def rewind(self, step):
        """Remove the records after a step, from which a run is resumed."""
        if os.path.exists(self.path):
            self._write([r for r in self.records() if r.get("step", 0) <= step])

    def _write(self, records):
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


def _figures_of_training(record):
    return {k: v for k, v in record.items() if k.startswith("train_")}


def _is_right(key, value):
    """Whether it is a number where one is expected, and no absurd one."""
    if not NUMBERS.fullmatch(key):
        return not isinstance(value, dict | list)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = key in ("epoch", "step")
    return 0 <= value < 2**53 if whole else not abs(value) > MAX_NUMBER
