"""The console command ``amsincnet``.

Each subcommand imports what it needs when it runs, so that the first answer
does not wait for what others need.
"""

import argparse
import json
import sys

from amsincnet_sb.utils.errors import InputError, exit_on_input_error

__all__ = ["main"]


def main(arguments=None):
    """Run a subcommand.

    Arguments
    ---------
    arguments : list of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        0, or the subcommand's exit status; user errors exit with 2.
    """
    options = _parser().parse_args(arguments)
    with exit_on_input_error():
        return options.run(options) or 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="amsincnet",
        description="Speaker identification with AM-SincNet.",
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )

    add = commands.add_parser(
        "identify",
        help="name the speakers of recordings",
        description="Name the speakers of recordings. A terminal shows a "
        "table; a pipe gets one JSON object a file.",
        epilog="example: amsincnet identify results/demo/1234 a.wav b.flac",
    )
    add.add_argument("model", help="results folder of a finished training run")
    add.add_argument("files", nargs="+", metavar="file", help="recordings")
    add.add_argument(
        "--top", type=int, default=3, help="candidates to show (default: 3)"
    )
    add.add_argument("--device", default="cpu", help="cpu, cuda, …")
    add.add_argument("--json", action="store_true", help="JSON on a terminal")
    add.set_defaults(run=_identify)

    add = commands.add_parser(
        "demo-corpus",
        help="generate speech-like sentences in TIMIT's layout",
        description="Generate speech-like sentences in TIMIT's layout, the "
        "same ones each time.",
        epilog="example: amsincnet demo-corpus demo/corpus --speakers 20",
    )
    add.add_argument("folder", help="where to")
    add.add_argument("--speakers", type=int, default=20)
    add.add_argument("--seed", type=int, default=0)
    add.set_defaults(run=_demo_corpus)
    return parser


def _identify(options):
    from amsincnet_sb.inference.identifier import SpeakerIdentifier

    if options.top < 1:
        raise InputError(f"--top is {options.top} but must be at least 1.")
    model = SpeakerIdentifier.from_results(options.model, options.device)
    as_json = options.json or not sys.stdout.isatty()
    status = 0
    for path in options.files:
        try:
            candidates = model.identify(path, options.top)
        except InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            status = 2
            continue
        if as_json:
            best = [candidate._asdict() for candidate in candidates]
            print(json.dumps({"file": path, "candidates": best}))
            continue
        print(path)
        for speaker, score, share in candidates:
            print(f"  {speaker:<20} score {score:8.3f}  windows {share:6.1%}")
    return status


def _demo_corpus(options):
    from amsincnet_sb.dataio.demo_corpus import generate_demo_corpus

    folder = generate_demo_corpus(
        options.folder, speakers=options.speakers, seed=options.seed
    )
    print(f"Generated speech of {options.speakers} speakers: {folder}")


if __name__ == "__main__":
    sys.exit(main())
