"""The record of a run's evaluations, one JSON object a line."""

import json
import os

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["History"]


class History:
    """``metrics.jsonl``.

    Arguments
    ---------
    path : str or Path
        The file; made when the first record is added.

    Example
    -------
    >>> history = History(getfixture("tmp_path") / "metrics.jsonl")
    >>> history.append(step=100, frame_error=50.0)
    >>> history.append(step=200, frame_error=40.0)
    >>> history.rewind(150)
    >>> history.records()
    [{'step': 100, 'frame_error': 50.0}]
    """

    def __init__(self, path):
        self.path = os.fspath(path)

    def records(self):
        """All records.

        Returns
        -------
        list of dict

        Raises
        ------
        InputError
            If a line is not a JSON object; a last line without its end, as
            a killed process leaves it, is passed over.
        """
        if not os.path.exists(self.path):
            return []
        with open(self.path, "rb") as file:
            lines = file.read().split(b"\n")
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
            records.append(record)
        return records

    def append(self, **record):
        """Add a record.

        The same evaluation done again (after an interruption, or by
        ``--test_only``) takes the place of its earlier record and keeps of
        that what it does not say itself.

        Arguments
        ---------
        **record
            Numbers and strings.
        """
        records, names = self.records(), ("epoch", "step", "split")
        same = [
            r for r in records if all(r.get(k) == record.get(k) for k in names)
        ]
        for earlier in same:
            records.remove(earlier)
            record = {**earlier, **record}
        # Anew, lest it be glued to a line that a killed process left.
        self._write([*records, record])

    def rewind(self, step):
        """Forget the records later than a step, from which a run goes on.

        Arguments
        ---------
        step : int
            The last one to keep.
        """
        if os.path.exists(self.path):
            self._write([r for r in self.records() if r["step"] <= step])

    def _write(self, records):
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
