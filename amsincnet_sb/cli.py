"""The console command ``amsincnet``.

Each subcommand imports what it needs when it runs, so that the first answer
does not wait for what others need.
"""

import argparse
import json
import sys
from pathlib import Path

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

    add = commands.add_parser(
        "import-released",
        help="turn a model of the released code into a results folder",
        description="Turn a model_raw_*.pkl of the released AM-SincNet or "
        "SincNet code into a results folder for the other commands. Nothing "
        "in the file is executed.",
        epilog="example: amsincnet import-released model_raw.pkl "
        "results/released --labels TIMIT_labels.npy",
    )
    add.add_argument("file", help="model_raw_*.pkl")
    add.add_argument("folder", help="results folder to make")
    add.add_argument("--labels", help="TIMIT_labels.npy: names of the speakers")
    add.add_argument("--sample-rate", type=int, default=16000, help="in Hz")
    add.add_argument("--hop", type=int, help="samples (default: 10 ms)")
    add.add_argument(
        "--sinc-kernel-size",
        type=int,
        help="taps of the sinc layer, where the file leaves it open",
    )
    add.set_defaults(run=_import_released)

    add = commands.add_parser(
        "plot",
        help="pictures of a results folder",
        description="Pictures of a results folder.",
        epilog="example: amsincnet plot curves results/demo/1234 --published",
    )
    add.add_argument("what", choices=["curves"], help="learning curves")
    add.add_argument("results", help="results folder")
    add.add_argument(
        "--published",
        action="store_true",
        help="draw the published curves on TIMIT beside them",
    )
    add.add_argument("--output", help="PNG (default: in the results folder)")
    add.set_defaults(run=_plot)
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


def _import_released(options):
    from amsincnet_sb.released import import_released

    import_released(
        options.file,
        options.folder,
        options.labels,
        sample_rate=options.sample_rate,
        hop=options.hop,
        sinc_kernel_size=options.sinc_kernel_size,
    )
    print(f"Imported {options.file}: {options.folder}")


def _plot(options):
    from amsincnet_sb.utils.plots import plot_curves

    metrics = Path(options.results) / "metrics.jsonl"
    picture = options.output or Path(options.results) / "curves.png"
    if not metrics.is_file():
        raise InputError(
            f"{metrics} does not exist; give the results folder of a run."
        )
    if not plot_curves(metrics, picture, options.published):
        raise InputError(
            "There is nothing to draw, or matplotlib is missing: install it "
            "with pip install 'amsincnet_sb[plots]'."
        )
    print(picture)


if __name__ == "__main__":
    sys.exit(main())
