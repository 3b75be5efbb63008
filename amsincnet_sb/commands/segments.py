"""The command that tells who speaks when."""

import contextlib
import sys
from itertools import chain, islice

from amsincnet_sb.commands.common import (
    CHANNEL,
    MODEL,
    answer,
    check_given,
    load,
)
from amsincnet_sb.options import argument, command
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_outputs, growing_file


@command(
    *MODEL,
    CHANNEL,
    argument("file", "a recording, or - for live audio"),
    argument("--among", "names of those who can be there", nargs="+"),
    argument("--count", "largest number of voices", int, least=1),
    argument(
        "--minimum", "seconds of a turn", float, default=0.4, least=0, most=10
    ),
    argument(
        "--threshold", "least probability, 0 to 1", float, least=0, most=1
    ),
    argument(
        "--least-speech",
        "seconds of speech before anybody is named",
        float,
        default=0.3,
        least=0,
    ),
    argument("--rate", "of raw samples from -, in Hz", int, least=1000),
    argument("--rttm", "RTTM file to write"),
    argument("--labels", "label track to write, for Audacity"),
    argument("--csv", "CSV file to write"),
    argument("--plot", "PNG of a timeline to write"),
)
def segments(options):
    """Tell who speaks when in a recording of several people.

    A terminal shows a table; a pipe gets one JSON object per segment. Known
    and enrolled speakers are named, other voices are unknown 1, unknown 2, ….
    Two at the same time are not told apart.

    - reads WAV or raw samples (16 bits, one channel) as they come, such as
    those of `arecord -f S16_LE -r 16000 |`, and tells who speaks at most 1.5 s
    later: first with an empty end, then the whole segment.

    example: amsincnet segments results/demo/1234 meeting.wav --rttm m.rttm
    """
    from amsincnet_sb.inference.recordings import STANDARD_INPUT
    from amsincnet_sb.inference.segments import Wanted
    from amsincnet_sb.inference.timelines import FORMATS

    targets = {name: getattr(options, name) for name in FORMATS}
    targets = {name: path for name, path in targets.items() if path is not None}
    for name in (*FORMATS, "plot"):
        check_given(f"--{name}", getattr(options, name))
    streamed = options.file in STANDARD_INPUT
    # The second of its names leads to a file that is redirected to it.
    inputs = STANDARD_INPUT if streamed else [options.file]
    check_outputs([*targets.values(), options.plot], *inputs)
    if options.plot and not options.plot.lower().endswith(".png"):
        raise InputError(f"--plot={options.plot} must end with .png.")
    among = options.among and tuple(options.among)
    wanted = Wanted(
        options.minimum,
        options.threshold,
        options.least_speech,
        among,
        options.count,
    )
    model = load(options)
    if streamed:
        _live(options, model, wanted, targets)
        return
    if options.rate is not None:
        raise InputError(
            "--rate is for raw samples from - alone; leave it out."
        )
    found = model.segments(options.file, **wanted._asdict())
    try:  # neither a full disk nor a reader that is gone costs the other
        for kind, path in targets.items():
            with atomic_write(path) as file:
                file.write(FORMATS[kind](found, options.file))
        if options.plot is not None:
            _draw(found, options.plot)
    finally:
        for segment in found:
            _print(options, segment)


def _draw(found, path):
    """Draw a timeline, or say what is missing for it."""
    from amsincnet_sb.plots import plot_segments

    if not plot_segments(found, path):
        raise InputError(
            "--plot needs matplotlib; run pip install 'amsincnet_sb[plots]'."
        )


def _print(options, segment):
    from amsincnet_sb.inference.timelines import as_row

    answer(options, segment._asdict(), as_row(segment))


def _live(options, model, wanted, targets):
    """Tell who speaks in standard input; files grow line by line."""
    from amsincnet_sb.dataio.streams import read_stream
    from amsincnet_sb.inference.live import LiveSegments
    from amsincnet_sb.inference.timelines import FORMATS, as_csv

    for name in ("count", "plot"):
        if getattr(options, name) is not None:
            raise InputError(
                f"--{name} needs the whole recording, which - does not have."
            )
    if sys.stdin is None:
        raise InputError("The standard input is closed.")
    live = LiveSegments(model, wanted)
    pieces = read_stream(
        sys.stdin.buffer,
        options.rate,
        model.embedding_model.sample_rate,
        model.channel,
        options.file,
    )
    first = [*islice(pieces, 1)]  # where nothing comes, earlier files stay
    with contextlib.ExitStack() as stack:
        files = {
            kind: stack.enter_context(growing_file(path))
            for kind, path in targets.items()
        }
        if "csv" in files:
            files["csv"](as_csv([]))

        def tell(found):
            """Write what is complete, and print; neither costs the other."""
            whole = [segment for segment in found if segment.end is not None]
            try:
                for kind, add in files.items():
                    keywords = {"header": False} if kind == "csv" else {}
                    add(FORMATS[kind](whole, "-", **keywords))
            finally:
                for segment in found:
                    _print(options, segment)

        try:
            for wave in chain(first, pieces):
                tell(live.hear(wave))
        finally:  # a stream that ends, breaks off or is interrupted
            tell(live.finish())
