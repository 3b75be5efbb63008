"""What several commands share: arguments, loading, answers."""

import contextlib
import json
import sys

from amsincnet_sb.options import argument
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_output

__all__ = [
    "CHANNEL",
    "FILES",
    "MODEL",
    "answer",
    "check_given",
    "complain",
    "load",
    "load_to_change",
    "printing_to",
    "read_recordings",
    "save",
]

MODEL = (
    argument("model", "results folder of a finished training run"),
    argument("--device", "cpu, cuda, …", default="cpu"),
    argument("--json", "JSON on a terminal", bool),
)
FILES = argument(
    "files", "recordings, folders of them, or -", nargs="+", metavar="file"
)
CHANNEL = argument("--channel", "from 1 on (default: their mean)", int, least=1)


def check_given(what, path):
    """Refuse an empty path, such as an unset variable of a shell makes.

    It would mean the current folder.
    """
    if path == "":
        raise InputError(f"{what} is empty; give a path (. is this folder).")


def load(options):
    """The model that a command is about."""
    from amsincnet_sb.inference.identifier import SpeakerIdentifier

    check_given("the model", options.model)
    model = SpeakerIdentifier.from_results(options.model, options.device)
    model.channel = getattr(options, "channel", None)
    return model


def load_to_change(options):
    """The model, if its folder can be written to."""
    from amsincnet_sb.inference.pretrained import find_pretrained

    check_output(find_pretrained(options.model) / "enrolled.npz")
    return load(options)


def read_recordings(names):
    """Names and recordings, and 2 if one could not be found, else 0."""
    from amsincnet_sb.inference.recordings import from_command_line

    found, status = [], 0
    for name, recording in from_command_line(names):
        if isinstance(recording, InputError):
            status = complain(recording)
        else:
            found.append((name, recording))
    return [name for name, _ in found], [each for _, each in found], status


def complain(error):
    """Say what is wrong with one of several recordings; the exit status."""
    print(f"Error: {error}", file=sys.stderr, flush=True)
    return 2


def save(options, model, values, said):
    """Save a changed model, and answer."""
    model.save()
    count = len(model.speakers)
    values = {**values, "speakers": count}
    answer(options, values, f"{said}; the model knows {count} speakers.")


def answer(options, values, *lines):
    """Print JSON to a pipe, and lines to a terminal."""
    if options.json or not sys.stdout.isatty():
        lines = (json.dumps(values),)
    print(*lines, sep="\n", flush=True)


@contextlib.contextmanager
def printing_to(path, *inputs):
    """What is printed is put into a file instead, whole or not at all.

    Where nothing is, an earlier file stays.
    """
    if not path:
        yield
        return
    check_output(path, *inputs)
    with contextlib.suppress(_NothingPrinted), atomic_write(path) as file:
        with contextlib.redirect_stdout(file):
            yield
        if not file.tell():
            raise _NothingPrinted


class _NothingPrinted(Exception):
    """Keeps an earlier file."""
