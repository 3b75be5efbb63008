"""The console command ``amsincnet``.

Each subcommand imports what it needs when it runs, so that the first answer
does not wait for what others need.
"""

import argparse
import importlib.util
import json
import math
import sys
import textwrap
from functools import partial
from pathlib import Path

from amsincnet_sb.utils.errors import InputError, exit_on_input_error

__all__ = ["main"]

MODEL = "results folder of a finished training run"


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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_until_dashes(arguments))
    if len(arguments) > len(_until_dashes(arguments)):
        options.options = arguments[arguments.index("--") + 1 :]
    with exit_on_input_error():
        return options.run(options) or 0


def _until_dashes(arguments):
    """What comes before ``--`` in a sweep, the rest of which is train.py's."""
    if arguments[:1] != ["sweep"] or "--" not in arguments:
        return arguments
    return arguments[: arguments.index("--")]


class _Help(argparse.HelpFormatter):
    """Breaks the line of an example so that it can be copied to a shell."""

    def _fill_text(self, text, width, indent):
        if not text.startswith("example: "):
            return super()._fill_text(text, width, indent)
        lines = textwrap.wrap(
            text, width - 6, break_long_words=False, break_on_hyphens=False
        )
        return " \\\n    ".join(lines)


def _parser():
    parser = argparse.ArgumentParser(
        prog="amsincnet",
        description="Speaker identification with AM-SincNet.",
    )
    commands = parser.add_subparsers(
        title="commands",
        required=True,
        metavar="COMMAND",
        parser_class=partial(argparse.ArgumentParser, formatter_class=_Help),
    )

    add = commands.add_parser(
        "identify",
        help="name the speakers of recordings",
        description="Name the speakers of recordings. A terminal shows a "
        "table; a pipe gets one JSON object a file.",
        epilog="example: amsincnet identify results/demo/1234 a.wav b.flac",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("files", nargs="+", metavar="file", help="recordings")
    add.add_argument(
        "--top", type=int, default=3, help="candidates to show (default: 3)"
    )
    add.add_argument(
        "--unknown",
        action="store_true",
        help="answer 'unknown' where too little speaks for anybody",
    )
    add.add_argument(
        "--threshold",
        type=float,
        help="least share of the recording that must speak for somebody, 0 "
        "to 1; implies --unknown (default: the calibrated one)",
    )
    _shared(add)
    add.set_defaults(run=_identify)

    _add_speaker_commands(commands)
    _add_sweep(commands)

    add = commands.add_parser(
        "prepare",
        help="make manifests of your own recordings to train on",
        description="Check every recording of a corpus, split each speaker's "
        "into training and test sentences, and write manifests. The corpus "
        "is a folder with a folder for each speaker, a CSV or JSON manifest "
        "with path and speaker (and id, split, start, stop), a Kaldi data "
        "folder, or a folder with the released code's .scp lists and .npy "
        "labels. No audio is copied.",
        epilog="example: amsincnet prepare recordings --output manifests",
    )
    add.add_argument("source", help="folder or manifest")
    add.add_argument("--output", required=True, help="folder for manifests")
    add.add_argument(
        "--data-folder",
        help="what paths are relative to (default: the source's folder)",
    )
    add.add_argument(
        "--test-fraction",
        type=float,
        default=0.25,
        help="of each speaker's sentences, at least one (default: 0.25)",
    )
    add.add_argument(
        "--validation-sentences",
        type=int,
        default=0,
        help="of each speaker, held out to choose by (default: 0)",
    )
    add.add_argument(
        "--seed", type=int, default=1234, help="of the split (default: 1234)"
    )
    add.set_defaults(run=_prepare)

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
    add.add_argument(
        "what",
        choices=["curves", "det", "filters", "confusions", "margins"],
        help="learning curves; misses against false alarms (after "
        "amsincnet evaluate); learned filters; who is taken for whom; error "
        "against margin (after amsincnet sweep)",
    )
    add.add_argument(
        "results",
        help="results folder; for margins that of a sweep, or its table",
    )
    add.add_argument(
        "--published",
        action="store_true",
        help="draw the published curves on TIMIT beside them",
    )
    add.add_argument("--output", help="PNG (default: in the results folder)")
    add.set_defaults(run=_plot)

    add = commands.add_parser(
        "export",
        help="write a model for other programs: ONNX, or safetensors",
        description="Write a model for other programs. A name ending in "
        ".onnx makes an ONNX file (waveform of any length to scores and "
        "d-vector), compared with the model in onnxruntime and timed; another "
        "name makes a folder with model.safetensors and config.json, which "
        "all commands read as well. Enrolled speakers are part of either.",
        epilog="example: amsincnet export results/demo/1234 model.onnx",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("output", help="*.onnx, or a new folder")
    _shared(add)
    add.set_defaults(run=_export)

    add = commands.add_parser(
        "report",
        help="one HTML page about a results folder",
        description="One HTML page about a results folder: errors, learning "
        "curves, verification, confusions, filters, hyperparameters. It holds "
        "its pictures and needs no other file.",
        epilog="example: amsincnet report results/demo/1234",
    )
    add.add_argument("results", help="results folder")
    add.add_argument(
        "--published",
        action="store_true",
        help="draw the published curves on TIMIT beside the learning curves",
    )
    add.add_argument(
        "--output", help="HTML (default: report.html in the results folder)"
    )
    add.set_defaults(run=_report)
    return parser


def _add_speaker_commands(commands):
    add = commands.add_parser(
        "enroll",
        help="add a speaker to a model, without training",
        description="Add a speaker to a model, without training: the model "
        "folder then holds enrolled.npz.",
        epilog="example: amsincnet enroll results/demo/1234 anna anna1.wav "
        "anna2.wav anna3.wav",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("name", help="of the new speaker")
    add.add_argument(
        "files", nargs="+", metavar="file", help="recordings of the speaker"
    )
    _shared(add)
    add.set_defaults(run=_enroll)

    add = commands.add_parser(
        "remove",
        help="forget an enrolled speaker",
        description="Forget an enrolled speaker.",
        epilog="example: amsincnet remove results/demo/1234 anna",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("name", help="of the enrolled speaker")
    _shared(add)
    add.set_defaults(run=_remove)

    add = commands.add_parser(
        "verify",
        help="decide whether two recordings are of the same speaker",
        description="Decide whether two recordings are of the same speaker. "
        "Exit status: 0 accepted, 1 rejected, 2 error.",
        epilog="example: amsincnet verify results/demo/1234 a.wav b.flac",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("a", help="recording")
    add.add_argument("b", help="recording")
    add.add_argument(
        "--threshold",
        type=float,
        help="least score to accept (default: the calibrated one)",
    )
    _shared(add)
    add.set_defaults(run=_verify)

    add = commands.add_parser(
        "embed",
        help="write d-vectors of recordings to a file",
        description="Write d-vectors of recordings to a file: an npz with "
        "the arrays files and embeddings, or a CSV with a row a file.",
        epilog="example: amsincnet embed results/demo/1234 a.wav b.flac "
        "--output embeddings.npz",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("files", nargs="+", metavar="file", help="recordings")
    add.add_argument("--output", required=True, help="*.npz or *.csv")
    _shared(add)
    add.set_defaults(run=_embed)

    add = commands.add_parser(
        "evaluate",
        help="errors of identification and verification on a manifest",
        description="Errors of identification (closed and open set) and "
        "verification on a manifest. Writes evaluation.json and det.png "
        "into the model's folder.",
        epilog="example: amsincnet evaluate results/demo/1234 --manifest "
        "results/demo/1234/manifests/test.csv --data_folder demo/corpus",
    )
    add.add_argument("model", help=MODEL)
    add.add_argument("--manifest", required=True, help="CSV of a preparation")
    add.add_argument(
        "--data_folder", required=True, help="what its paths are relative to"
    )
    add.add_argument(
        "--trials",
        help="list of pairs for verification, '1 id id' or '0 id id' a line "
        "(default: all pairs)",
    )
    add.add_argument(
        "--calibrate",
        action="store_true",
        help="keep the equal-error thresholds with the model, for verify and "
        "identify --unknown",
    )
    add.add_argument(
        "--cohort",
        help="manifest of the training sentences: verification measures "
        "against their speakers; kept with the thresholds",
    )
    _shared(add)
    add.set_defaults(run=_evaluate)


def _add_sweep(commands):
    add = commands.add_parser(
        "sweep",
        help="train with many margins and seeds, and compare",
        description="Train a recipe with many margins and seeds, one process "
        "a run, as many at a time as there are GPUs. Started again it goes "
        "on where it was. Writes margins.csv, margins.md and margins.png. "
        "What follows -- goes to train.py, as in -- --number_of_epochs=30. "
        "Exit status: 1 if a run failed.",
        epilog="example: amsincnet sweep hparams/am_sincnet.yaml --margins "
        "0.05:0.95:0.05 --seeds 3 --data_folder /path/to/TIMIT --baselines "
        "hparams/released.yaml hparams/sincnet.yaml",
    )
    add.add_argument("hparams", help="hyperparameter file with a margin")
    add.add_argument(
        "--margins", default="0.05:0.95:0.05", help="first:last:step or a,b,c"
    )
    add.add_argument(
        "--seeds", type=int, default=3, help="runs of each (default: 3)"
    )
    add.add_argument("--data_folder", help="corpus")
    add.add_argument("--manifest", help="folder made by amsincnet prepare")
    add.add_argument(
        "--baselines",
        nargs="*",
        default=[],
        metavar="FILE",
        help="further files, each run with its own margin",
    )
    add.add_argument(
        "--output", default="results/sweep", help="default: results/sweep"
    )
    add.add_argument(
        "--jobs-per-device",
        type=int,
        default=1,
        help="runs at a time on each GPU, or on the CPU (default: 1)",
    )
    add.add_argument("--script", help="train.py (default: the recipe's)")
    add.set_defaults(run=_sweep, options=[])


def _shared(add):
    """Options of every command that loads a model."""
    add.add_argument("--device", default="cpu", help="cpu, cuda, …")
    add.add_argument("--json", action="store_true", help="JSON on a terminal")


def _recipe_module(name):
    """A script of the repository's recipes, as a module."""
    path = Path(__file__).absolute().parents[1] / "recipes" / name
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, because the recipes are not installed "
            "with the package; run this command from a clone of the "
            "repository, installed there with `pip install -e .`."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _as_json(options):
    return options.json or not sys.stdout.isatty()


def _load(options):
    from amsincnet_sb.inference.identifier import SpeakerIdentifier

    return SpeakerIdentifier.from_results(options.model, options.device)


def _threshold(options):
    """The one given, None for the calibrated one."""
    if options.threshold is not None and not math.isfinite(options.threshold):
        raise InputError(
            f"--threshold is {options.threshold} but must be a number."
        )
    return options.threshold


def _identify(options):
    if options.top < 1:
        raise InputError(f"--top is {options.top} but must be at least 1.")
    threshold = _threshold(options)
    model = _load(options)
    if options.unknown and threshold is None:
        threshold = model.threshold("identification")
    as_json = _as_json(options)
    status = 0
    answers = model.identify_all(options.files, options.top, threshold, True)
    for path, candidates in zip(options.files, answers):
        if isinstance(candidates, InputError):
            print(f"Error: {candidates}", file=sys.stderr, flush=True)
            status = 2
            continue
        if as_json:
            best = [candidate._asdict() for candidate in candidates]
            print(json.dumps({"file": path, "candidates": best}), flush=True)
            continue
        print(path)
        for speaker, score, share in candidates:
            numbers = ""
            if share is not None:
                numbers = f" share {share:6.1%}  score {score:8.3f}"
            print(f"  {speaker:<20}{numbers}".rstrip())
    return status


def _enroll(options):
    model = _load(options)
    model.enroll(options.name, options.files)
    model.save()
    if _as_json(options):
        answer = {"enrolled": options.name, "files": len(options.files)}
        print(json.dumps({**answer, "speakers": len(model.speakers)}))
        return
    print(
        f"Enrolled {options.name} from {len(options.files)} file(s); the "
        f"model knows {len(model.speakers)} speakers."
    )


def _remove(options):
    model = _load(options)
    model.remove(options.name)
    model.save()
    if _as_json(options):
        answer = {"removed": options.name, "speakers": len(model.speakers)}
        print(json.dumps(answer))
        return
    print(
        f"Removed {options.name}; the model knows {len(model.speakers)} "
        "speakers."
    )


def _verify(options):
    threshold = _threshold(options)
    model = _load(options)
    if threshold is None:
        threshold = model.threshold("verification")
    score, accepted = model.verify(options.a, options.b, threshold)
    if _as_json(options):
        answer = {"a": options.a, "b": options.b, "score": score}
        answer.update(threshold=threshold, accepted=accepted)
        print(json.dumps(answer))
    else:
        print(
            f"{'same speaker' if accepted else 'different speakers'}  "
            f"score {score:.3f}  threshold {threshold:.3f}"
        )
    return 0 if accepted else 1


def _embed(options):
    from amsincnet_sb.inference.embeddings import write_embeddings

    # Before an hour of listening.
    if Path(options.output).suffix not in (".npz", ".csv"):
        raise InputError(
            f"--output is {options.output} but must end with .npz or .csv."
        )
    embeddings = _load(options).embed(options.files)
    write_embeddings(options.output, options.files, embeddings)
    number, size = embeddings.shape
    if _as_json(options):
        answer = {"output": options.output, "files": number, "size": size}
        print(json.dumps(answer))
        return
    print(f"{number} d-vectors of {size} numbers: {options.output}")


def _evaluate(options):
    from amsincnet_sb.inference.evaluation import (
        calibration_from,
        cohort_from,
        evaluate_model,
        report,
    )
    from amsincnet_sb.plots import plot_det
    from amsincnet_sb.utils.files import atomic_write

    model = _load(options)
    # Every window that the evaluation of a training run counts.
    model.hop = model.embedding_model.hop
    if options.cohort:
        model.cohort = cohort_from(model, options.cohort, options.data_folder)
    results = evaluate_model(
        model, options.manifest, options.data_folder, options.trials
    )
    if options.calibrate:
        model.calibration = calibration_from(results, options.manifest)
        model.save()
    folder = Path(options.model)
    with atomic_write(folder / "evaluation.json") as file:
        json.dump(results, file, indent=1)
    if results["verification"]:
        plot_det(path=folder / "det.png", **results["verification"]["det"])
    if _as_json(options):
        shown = {k: v for k, v in results.items() if k != "verification"}
        shown["verification"] = results["verification"] and {
            k: v for k, v in results["verification"].items() if k != "det"
        }
        print(json.dumps(shown))
        return
    for line in report(results):
        print(line)


def _prepare(options):
    from amsincnet_sb.dataio.corpus import prepare_own_corpus, training_command

    summary = prepare_own_corpus(
        options.source,
        options.output,
        options.data_folder,
        options.test_fraction,
        options.validation_sentences,
        options.seed,
    )
    print(f"{options.source}: {summary.options['corpus']}")
    for line in summary.report():
        # A file's name need not be valid Unicode.
        print(" ", line.encode(errors="backslashreplace").decode())
    print(f"Manifests: {options.output}")
    print("Train on them in recipes/TIMIT/speaker_id with")
    print(f"  {training_command(options.output, summary)}")


def _sweep(options):
    from amsincnet_sb.plots import plot_margins
    from amsincnet_sb.training.device import visible_gpus
    from amsincnet_sb.training.sweep import Sweep, parse_margins

    if options.jobs_per_device < 1:
        raise InputError(
            f"--jobs-per-device is {options.jobs_per_device} but must be at "
            "least 1."
        )
    # The runs start in the recipe's folder.
    places = [
        f"--{key}={Path(getattr(options, key)).absolute()}"
        for key in ("data_folder", "manifest")
        if getattr(options, key)
    ]
    margins = parse_margins(options.margins)
    sweep = Sweep(
        options.hparams,
        options.output,
        margins,
        options.seeds,
        options.baselines,
        places + options.options,
        options.script,
    )
    failed = sweep.run(visible_gpus(), options.jobs_per_device)
    print((sweep.output / "margins.md").read_text(encoding="utf-8"), end="")
    name = sweep.runs[0].recipe
    if len({r["margin"] for r in sweep.table() if r["recipe"] == name}) > 1:
        plot_margins(sweep.output / "margins.csv", sweep.output / "margins.png")
    return 1 if failed else 0


def _demo_corpus(options):
    demo_corpus = _recipe_module("TIMIT/demo_corpus.py")
    folder = demo_corpus.generate_demo_corpus(
        options.folder, speakers=options.speakers, seed=options.seed
    )
    print(f"Generated speech of {options.speakers} speakers: {folder}")


def _import_released(options):
    from amsincnet_sb.original import import_released

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
    folder = Path(options.results)
    folder = folder.parent if folder.is_file() else folder
    picture = options.output or folder / f"{options.what}.png"
    draw = {
        "curves": _plot_curves,
        "det": _plot_det,
        "filters": _plot_filters,
        "confusions": _plot_confusions,
        "margins": _plot_margins,
    }[options.what]
    if not draw(options, picture):
        raise InputError(
            "There is nothing to draw, or matplotlib is missing: install it "
            "with pip install 'amsincnet_sb[plots]'."
        )
    print(picture)


def _result_file(options, name, made_by):
    path = Path(options.results) / name
    if not path.is_file():
        raise InputError(f"{path} does not exist; {made_by}.")
    return path


def _plot_curves(options, picture):
    from amsincnet_sb.plots import plot_curves

    made_by = "give the results folder of a run"
    metrics = _result_file(options, "metrics.jsonl", made_by)
    return plot_curves(metrics, picture, options.published)


def _plot_det(options, picture):
    from amsincnet_sb.plots import plot_det

    made_by = "amsincnet evaluate writes it"
    path = _result_file(options, "evaluation.json", made_by)
    try:
        verification = json.loads(path.read_text(encoding="utf-8"))
        det = verification["verification"]["det"]
        curves = [[float(rate) for rate in det[key]] for key in sorted(det)]
        false_alarm, miss = curves
    except (LookupError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} holds no verification errors to draw; run amsincnet "
            "evaluate on sentences of which some share a speaker."
        ) from error
    return plot_det(miss, false_alarm, picture)


def _plot_filters(options, picture):
    from amsincnet_sb.inference.pretrained import read_pretrained
    from amsincnet_sb.plots import plot_filters

    return plot_filters(read_pretrained(options.results)[0].sinc, picture)


def _plot_confusions(options, picture):
    from amsincnet_sb.plots import plot_confusions

    made_by = "give the results folder of a finished run"
    sentences = _result_file(options, "sentences.csv", made_by)
    return plot_confusions(sentences, picture)


def _plot_margins(options, picture):
    from amsincnet_sb.plots import plot_margins

    table = Path(options.results)
    if not table.is_file():
        made_by = "amsincnet sweep writes it"
        table = _result_file(options, "margins.csv", made_by)
    return plot_margins(table, picture, options.published)


def _export(options):
    as_json, output = _as_json(options), Path(options.output)
    if output.suffix != ".onnx":
        _load(options).save(output, safetensors=True)
        print(json.dumps({"output": options.output}) if as_json else output)
        return
    from amsincnet_sb.inference.export import export_onnx

    found = export_onnx(_load(options), output)
    if as_json:
        print(json.dumps({"output": options.output, **found._asdict()}))
        return
    print(output)
    print(
        f"  differs by at most {found.difference:.1e} of the largest value; "
        f"3 s of audio take {found.onnx_seconds:.3f} s in onnxruntime, "
        f"{found.torch_seconds:.3f} s in torch"
    )


def _report(options):
    from amsincnet_sb.inference.report import write_report

    print(write_report(options.results, options.output, options.published))


if __name__ == "__main__":
    sys.exit(main())
