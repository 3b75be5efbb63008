"""Many recordings, asked about in parts on the machines of a cluster."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import as_completed
from pathlib import Path

from amsincnet_sb.commands.common import answer, complain, read_recordings
from amsincnet_sb.options import argument
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import absolute, atomic_write, check_output
from amsincnet_sb.utils.locks import sole_process
from amsincnet_sb.utils.reading import read_json

__all__ = ["EXECUTOR", "in_parts"]

PART = 500  # recordings of a part
EXECUTOR = argument(
    "--executor", "ask in parts on the workers of dask's scheduler there"
)


def in_parts(options, command, join, suffix, *more):
    """Run a command on parts of the recordings; returns the exit status.

    Each part is a command that can be run by hand, whose output has this
    suffix and lies in the folder ``OUTPUT.parts``; those that are done are
    passed over. ``more`` are options of the command; ``join`` makes a file of
    paths, and returns of how many recordings. Complaints about single
    recordings are printed, and what all parts note once. Raises InputError,
    when all parts have ended, if one has no output.
    """
    from tqdm import tqdm

    from amsincnet_sb.training.executors import open_executor

    names, recordings, status = read_recordings(options.files)
    if any(not isinstance(each, str) for each in recordings):
        raise InputError("--executor needs files; - is none.")
    if not options.output:
        raise InputError("--executor needs an --output.")
    check_output(options.output, *names)
    if not names:  # of which it is told
        return status
    names = [absolute(name) for name in names]
    output = absolute(options.output)
    work = Path(f"{output}.parts")
    program = [sys.executable, "-m", "amsincnet_sb", command]
    program += [absolute(options.model), "--device", options.device]
    if options.channel:
        program += ["--channel", str(options.channel)]
    commands, asked = {}, {}
    for number, first in enumerate(range(0, len(names), PART)):
        path = work / f"{number:06d}" / f"part{suffix}"
        some = names[first : first + PART]
        asked[path] = some
        commands[path] = [*program, *more, "--output", str(path), "--", *some]
    with open_executor(options.executor) as submit, sole_process(work):
        _keep_plan(work, [*commands.values()], [*_model(options), *names])
        futures = {
            submit(commands[path], path.parent): path
            for path in commands
            if not path.exists()
        }
        bar = tqdm(
            as_completed(futures),
            total=len(commands),
            initial=len(commands) - len(futures),
            unit="part",
            disable=None,
        )
        reasons = [
            _reason(future, futures[future], asked[futures[future]])
            for future in bar
        ]
        reasons = [reason for reason in reasons if reason]
        if reasons:
            raise InputError(
                f"{len(reasons)} of {len(commands)} parts have failed, one of "
                f"them so: {reasons[0].rstrip('.')}."
            )
        parts = [path for path in commands if path.exists()]
        if parts:
            count = join(parts, output)
        status = max([status, *_complaints(asked)])
        shutil.rmtree(work)
    if not parts:
        return status
    answer(options, {"output": output, "files": count}, output)
    return status


def _complaints(asked):
    """Print those of all parts, and their notes once; exit statuses."""
    notes = {}
    for path, names in asked.items():
        lines, errors = _errors(path, names)
        for line in lines:
            if line.startswith("Note: ") and line not in notes:
                notes[line] = print(line, file=sys.stderr, flush=True)
        yield from map(complain, errors)


def _errors(path, names):
    """Lines of a part's log, and what those say that are errors."""
    log = path.parent.with_suffix(".log")
    text = log.read_bytes().decode(errors="replace")
    # A name may have line breaks in it, and another one begin like it.
    for name in sorted(map(_as_logged, names), key=len, reverse=True):
        if "\n" in name:
            text = text.replace(name, name.replace("\n", "\0"))
    lines = [x.replace("\0", "\n") for x in text.split("\n") if x]
    mark = "Error: "
    return lines, [x[len(mark) :] for x in lines if x.startswith(mark)]


def _as_logged(name):
    """A name as it is in a log, whatever bytes it has."""
    return name.encode(errors="backslashreplace").decode()


def _reason(future, path, names):
    """Why a part has no output, or None.

    None of its recordings can be used if there is a complaint about each.
    """
    if future.exception() is not None:
        return f"{future.exception()}"
    if path.exists():
        return None
    lines, errors = _errors(path, names)
    if all(
        any(name in error for error in errors)
        for name in map(_as_logged, names)
    ):
        return None
    said = lines[-1] if lines else f"status {future.result()}"
    return said.removeprefix("Error: ")


def _model(options):
    from amsincnet_sb.inference.pretrained import find_pretrained

    folder = find_pretrained(options.model)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of a trained model.")
    return sorted(path for path in folder.iterdir() if path.is_file())


def _keep_plan(work, commands, files):
    """Throw away parts of other commands, models or recordings."""
    states = []
    for file in files:
        with contextlib.suppress(OSError):  # the command will complain
            state = os.stat(file)
            states.append([str(file), state.st_size, state.st_mtime_ns])
    text = json.dumps([commands, states])
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = work / "plan.json"
    if path.exists() and read_json(path, "remove it").get("plan") != digest:
        for old in work.glob("[0-9]*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    with atomic_write(path) as file:
        json.dump({"plan": digest}, file)
