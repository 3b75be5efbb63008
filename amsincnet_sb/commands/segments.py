"""The command that tells who speaks when."""

from amsincnet_sb.commands.common import CHANNEL, MODEL, answer, load
from amsincnet_sb.options import argument, command
from amsincnet_sb.utils.files import atomic_write, check_output


@command(
    *MODEL,
    CHANNEL,
    argument("file", "a recording, or -"),
    argument("--among", "names of those who can be there", nargs="+"),
    argument("--count", "largest number of voices", int, least=1),
    argument(
        "--minimum", "seconds of a turn", float, default=0.4, least=0, most=10
    ),
    argument("--threshold", "least probability, 0 to 1", float, least=0),
    argument(
        "--least-speech",
        "seconds of speech before anybody is named",
        float,
        default=0.3,
        least=0,
    ),
    argument("--rttm", "RTTM file to write"),
    argument("--labels", "label track to write, for Audacity"),
    argument("--csv", "CSV file to write"),
)
def segments(options):
    """Tell who speaks when in a recording of several people.

    A terminal shows a table; a pipe gets one JSON object per segment. Known
    and enrolled speakers are named, other voices are unknown 1, unknown 2, ….
    Two at the same time are not told apart.

    example: amsincnet segments results/demo/1234 meeting.wav --rttm m.rttm
    """
    from amsincnet_sb.inference.recordings import from_command_line
    from amsincnet_sb.inference.timelines import FORMATS, as_row

    targets = {name: getattr(options, name) for name in FORMATS}
    targets = {name: path for name, path in targets.items() if path is not None}
    for path in targets.values():
        check_output(path, options.file)
    model = load(options)
    ((name, recording),) = from_command_line([options.file])
    found = model.segments(
        recording,
        options.minimum,
        options.threshold,
        options.least_speech,
        options.among,
        options.count,
    )
    for kind, path in targets.items():
        with atomic_write(path) as file:
            file.write(FORMATS[kind](found, name))
    for segment in found:
        answer(options, segment._asdict(), as_row(segment))
