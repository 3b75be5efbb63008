"""lhotse's manifests as a source: recordings and supervisions, or cuts.

lhotse itself reads them, and nothing else of it is used: paths, times and
speakers are taken, and the audio is read as any other.
"""

import json
import re
from collections import Counter
from pathlib import Path

from amsincnet_sb.dataio.columns import ALIASES, plain
from amsincnet_sb.dataio.kaldi import file_of_pipe
from amsincnet_sb.dataio.lists import first_line
from amsincnet_sb.utils.errors import InputError

__all__ = ["find_lhotse", "lhotse_rows"]

_NAME = re.compile(r"(?:^|[_.-])(recordings|supervisions|cuts)(?=[_.-])")
_SUFFIX = (".jsonl", ".jsonl.gz")
# Keys that other lists have seldom, and not without path and speaker.
_KEYS = re.compile(
    r'"(?:sources|recording_id|supervisions)":|"type": ?"\w*Cut"'
)


def find_lhotse(source):
    """The manifests of lhotse that a file or a folder stands for.

    Arguments
    ---------
    source : Path
        A folder, or one of the files: of recordings and supervisions, either.

    Returns
    -------
    list of (Path, Path or None)
        Recordings and their supervisions, or cuts and None. Empty where
        nothing is lhotse's.

    Raises
    ------
    InputError
        A file has no twin, or there are both pairs and cuts.
    """
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [f for f in files if f.name.endswith(_SUFFIX) and f.is_file()]
    if source.is_dir():
        files = [f for f in files if _NAME.search(f.name)]
    found = {}
    for path in files:
        name = _NAME.search(path.name)
        line = first_line(path, "export it again")
        if not _KEYS.search(line) or _is_list(line):
            continue
        kind = name[1] if name else "cuts"
        if kind == "cuts":
            found[path] = None
            continue
        pair = [
            path.with_name(path.name.replace(kind, other, 1))
            for other in ("recordings", "supervisions")
        ]
        for twin in pair:
            if not twin.is_file():
                raise InputError(
                    f"{path}: lhotse's {twin.name} is not beside it; add it, "
                    "because recordings have no speakers and supervisions no "
                    "files."
                )
        found[pair[0]] = pair[1]
    if len(set(map(bool, found.values()))) > 1:
        raise InputError(
            f"{source}: it has recordings with supervisions, and cuts; name "
            "the file to be read."
        )
    return list(found.items())


def _is_list(line):
    """Whether a line of JSON has a path and a speaker, as lhotse's has not."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    names = {plain(name) for name in row} if isinstance(row, dict) else set()
    return all(names & {*ALIASES[it].split()} for it in ("path", "speaker"))


def lhotse_rows(manifests):
    """The rows of :func:`find_lhotse`'s manifests, for :class:`Columns`.

    A supervision is an utterance, in seconds of its recording.

    Returns
    -------
    rows : list of (str, dict)
    left_out : list of (str, str)
        Supervisions outside their cuts, and the reason.

    Raises
    ------
    InputError
        lhotse is missing or cannot read a manifest, a recording is no file
        on the disk or is changed when it is read, or cuts have no
        supervisions.
    """
    rows, left_out = [], []
    for first, second in manifests:
        if second is None:
            found, outside = _of_cuts(first)
            rows += found
            left_out += outside
            continue
        recordings = {item.id: item for item in _items(first, "Recording")}
        for number, item in enumerate(_items(second, "SupervisionSegment"), 1):
            where = f"{second}, line {number}"
            if item.recording_id not in recordings:
                raise InputError(
                    f"{where}: {item.recording_id} is not in {first.name}; "
                    "add it."
                )
            recording = recordings[item.recording_id]
            rows.append((where, _row(where, recording, item, item.start)))
    return rows, left_out


def _of_cuts(path):
    rows, left_out = [], []
    for number, cut in enumerate(_items(path, "Cut"), 1):
        where = f"{path}, line {number}"
        if type(cut).__name__ not in ("MonoCut", "MultiCut"):
            raise InputError(
                f"{where}: a {type(cut).__name__} is made of several "
                "recordings when it is read; save its audio, and cuts of that."
            )
        if cut.recording is None:
            raise InputError(
                f"{where}: the cut has features but no recording; add it."
            )
        for item in cut.supervisions:
            first, last = max(item.start, 0), min(item.end, cut.duration)
            if first >= last:
                left_out.append((item.id, f"it is outside its cut {cut.id}"))
                continue
            # What is outside the cut is not meant.
            row = _row(where, cut.recording, item, cut.start + first)
            row["duration"] = f"{last - first:.9f}"
            rows.append((where, row, f"{cut.id}-{row['id']}"))
    if not rows:
        raise InputError(
            f"{path}: the cuts have no supervisions"
            f"{' within them' if left_out else ''}, which say who speaks; make "
            "them of recordings and supervisions."
        )
    often = Counter(row["id"] for _, row, _ in rows)
    for _, row, longer in rows:
        row["id"] = longer if often[row["id"]] > 1 else row["id"]
    return [(where, row) for where, row, _ in rows], left_out


def _row(where, recording, item, start):
    """A supervision that starts at a second of its recording."""
    (source, *others) = recording.sources
    if others or source.type not in ("file", "command"):
        raise InputError(
            f"{where}: recording {recording.id} is no single file; save its "
            "audio to a file."
        )
    if recording.transforms:
        raise InputError(
            f"{where}: recording {recording.id} is changed when it is read; "
            "save its audio."
        )
    path, channel = str(source.source), ""
    if source.type == "command":
        path, channel = file_of_pipe(where, f"{path.rstrip(' |')} |")
    chosen = item.channel
    chosen = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    if not channel and {*chosen} != {*(recording.channel_ids or chosen)}:
        channel = ",".join(map(str, chosen))
    return {
        "id": item.id,
        "path": path,
        "speaker": item.speaker,
        "offset": f"{start:.9f}",
        "duration": f"{item.duration:.9f}",
        "channel": channel,
        "recording": recording.id,
    }


def _items(path, kind):
    """The items of a manifest, as lhotse reads them."""
    try:
        from lhotse.serialization import load_manifest_lazy
    except ImportError as error:
        raise InputError(
            f"{path}: lhotse reads this and is not installed; type `pip "
            "install 'amsincnet_sb[corpora]'`."
        ) from error
    try:
        items = list(load_manifest_lazy(Path(path)) or ())
    except Exception as error:  # of whatever kind lhotse's readers raise
        raise InputError(
            f"{path}: lhotse cannot read it ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason'}); "
            "write it again with lhotse or, if it is a list of your own, give "
            "each line a path and a speaker."
        ) from error
    names = {type(item).__name__ for item in items}
    wrong = [name for name in names if not name.endswith(kind)]
    if wrong or not items:
        raise InputError(
            f"{path}: it should hold lhotse's {kind} and has "
            f"{wrong[0] if wrong else 'nothing'}; check its name."
        )
    return items
