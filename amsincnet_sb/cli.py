"""The console command ``amsincnet``.

A function below is a command: its docstring is the help. Each imports what it
needs when it runs, so that ``--help`` does not wait for it.
"""

import argparse
import importlib.util
import inspect
import json
import math
import re
import sys
from pathlib import Path

from amsincnet_sb import __version__
from amsincnet_sb.utils.errors import InputError, exit_on_input_error

__all__ = ["main", "one_spelling"]

COMMANDS = {}
STATUSES = """\
exit status: 0 done; 1 the answer is no (verify) or a run failed (sweep); 2
wrong input, options or place, or some of several recordings could not be used;
70 a bug; 75 a training that was stopped and can go on; 130 interrupted
(Ctrl-C); 141 the output is not read any more.
"""
# Names of version 0.1.0, which still work.
OLD_NAMES = {"import-released": "import-original"}


def main(arguments=None):
    """Run a command, by default that of the process; returns its exit status.

    Errors of the user are one sentence and status 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_input_error():
        if arguments[:1] == ["sweep"]:
            return _sweep(arguments[1:])
        arguments[:1] = [OLD_NAMES.get(word, word) for word in arguments[:1]]
        options = _parser().parse_args(one_spelling(arguments))
        return options.run(options) or 0


def one_spelling(arguments):
    """Spell options with hyphens, as the parsers do.

    Example
    -------
    >>> one_spelling(["a_b", "--data_folder=c_d", "--data-folder"])
    ['a_b', '--data-folder=c_d', '--data-folder']
    """
    return [
        re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), argument)
        for argument in arguments
    ]


def _parser():
    parser = argparse.ArgumentParser(
        prog="amsincnet",
        description="Speaker identification with AM-SincNet.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    for name, (function, arguments) in COMMANDS.items():
        *text, example = inspect.getdoc(function).split("\n\n")
        add = commands.add_parser(
            name,
            help=text[0][0].lower() + text[0].rstrip(".")[1:],
            description="\n\n".join(text),
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for argument, keywords in arguments:
            add.add_argument(argument, **keywords)
        add.set_defaults(run=function)
    return parser


def _argument(name, help, kind=str, default=None, **keywords):
    """An argument of a command; an option with a default tells it."""
    if kind is bool:
        return name, {"action": "store_true", "help": help}
    if default is not None:
        help = f"{help} (default: {default})"
    return name, dict(help=help, type=kind, default=default, **keywords)


def _command(*arguments):
    """Make a command of a function."""

    def add(function):
        """Enter the command under its name."""
        name = function.__name__.strip("_").replace("_", "-")
        COMMANDS[name] = function, arguments
        return function

    return add


MODEL = (
    _argument("model", "results folder of a finished training run"),
    _argument("--device", "cpu, cuda, …", default="cpu"),
    _argument("--json", "JSON on a terminal", bool),
)
FILES = _argument("files", "recordings", nargs="+", metavar="file")
PUBLISHED = _argument("--published", "draw TIMIT's published curves too", bool)


@_command(
    *MODEL,
    FILES,
    _argument("--top", "candidates to show", int, 3),
    _argument("--unknown", "'unknown' where too little is for anybody", bool),
    _argument("--threshold", "least share of the windows, 0 to 1", float),
)
def _identify(options):
    """Name the speakers of recordings.

    A terminal shows a table; a pipe gets one JSON object per file. --unknown
    uses the calibrated threshold; --threshold gives another.

    example: amsincnet identify results/demo/1234 a.wav b.flac
    """
    if options.top < 1:
        raise InputError(f"--top is {options.top} but must be at least 1.")
    threshold = _threshold(options)
    model = _load(options)
    if options.unknown and threshold is None:
        threshold = model.threshold("identification")
    status = 0
    answers = model.identify_all(options.files, options.top, threshold, True)
    for path, candidates in zip(options.files, answers):
        if isinstance(candidates, InputError):
            print(f"Error: {candidates}", file=sys.stderr, flush=True)
            status = 2
            continue
        lines = [
            f"  {speaker}"
            if share is None
            else f"  {speaker:<20} share {share:6.1%}  score {score:8.3f}"
            for speaker, score, share in candidates
        ]
        best = [candidate._asdict() for candidate in candidates]
        _answer(options, {"file": path, "candidates": best}, path, *lines)
    return status


@_command(
    *MODEL,
    _argument("name", "of the new speaker"),
    _argument("files", "of the speaker", nargs="+", metavar="file"),
)
def _enroll(options):
    """Add a speaker to a model, without training.

    The model's folder gets the file enrolled.npz.

    example: amsincnet enroll results/demo/1234 anna anna1.wav anna2.wav
    """
    model, name, files = _load(options), options.name, len(options.files)
    model.enroll(name, options.files)
    said = f"Enrolled {name} from {files} file(s)"
    _save(options, model, {"enrolled": name, "files": files}, said)


@_command(*MODEL, _argument("name", "of the enrolled speaker"))
def _remove(options):
    """Remove an enrolled speaker from a model.

    example: amsincnet remove results/demo/1234 anna
    """
    model = _load(options)
    model.remove(options.name)
    _save(options, model, {"removed": options.name}, f"Removed {options.name}")


@_command(
    *MODEL,
    _argument("a", "recording"),
    _argument("b", "recording"),
    _argument("--threshold", "least score (default: calibrated)", float),
)
def _verify(options):
    """Decide whether two recordings are of the same speaker.

    Exit status: 0 accepted, 1 rejected, 2 error.

    example: amsincnet verify results/demo/1234 a.wav b.flac
    """
    threshold = _threshold(options)
    model = _load(options)
    if threshold is None:
        threshold = model.threshold("verification")
    score, accepted = model.verify(options.a, options.b, threshold)
    values = dict(score=score, threshold=threshold, accepted=accepted)
    said = "same speaker" if accepted else "different speakers"
    said += f"  score {score:.3f}  threshold {threshold:.3f}"
    _answer(options, values, said)
    return 0 if accepted else 1


@_command(*MODEL, FILES, _argument("--output", "*.npz or *.csv", required=True))
def _embed(options):
    """Write speaker embeddings (d-vectors) of recordings to a file.

    An npz has the arrays files and embeddings, a CSV a row per file.

    example: amsincnet embed results/demo/1234 a.wav b.flac --output all.npz
    """
    from amsincnet_sb.inference.export import write_embeddings

    if Path(options.output).suffix not in (".npz", ".csv"):
        raise InputError(
            f"--output is {options.output} but must end with .npz or .csv."
        )
    embeddings = _load(options).embed(options.files)
    write_embeddings(options.output, options.files, embeddings)
    count, size = embeddings.shape
    values = {"output": options.output, "files": count, "size": size}
    said = f"{count} speaker embeddings of {size} dimensions"
    _answer(options, values, f"{said}: {options.output}")


@_command(
    *MODEL,
    _argument("--manifest", "CSV of a preparation", required=True),
    _argument("--data-folder", "folder of its paths", required=True),
    _argument("--trials", "pairs, '1 id id' or '0 id id' (default: all)"),
    _argument("--calibrate", "keep the thresholds of equal errors", bool),
    _argument("--cohort", "manifest of training sentences"),
)
def _evaluate(options):
    """Measure errors of identification and verification on a manifest.

    Identification is of the closed and the open set. Writes evaluation.json
    and det.png into the model's folder. --calibrate keeps the thresholds for
    verify and identify --unknown; the speakers of a --cohort normalise the
    scores of verification and are kept with them.

    example: amsincnet evaluate results/demo/1234 --manifest \\
        results/demo/1234/manifests/test.csv --data_folder demo/corpus
    """
    from amsincnet_sb.inference import evaluation
    from amsincnet_sb.plots import plot_det
    from amsincnet_sb.utils.files import atomic_write

    model, corpus = _load(options), options.data_folder
    # Every window that the evaluation of a training run counts.
    model.hop = model.embedding_model.hop
    manifest, folder = options.manifest, Path(options.model)
    if options.cohort:
        model.cohort = evaluation.cohort_from(model, options.cohort, corpus)
    results = evaluation.evaluate_model(model, manifest, corpus, options.trials)
    if options.calibrate:
        model.calibration = evaluation.calibration_from(results, manifest)
        model.save()
    with atomic_write(folder / "evaluation.json") as file:
        json.dump(results, file, indent=1)
    lines = evaluation.report(results)
    if results["verification"]:
        det = results["verification"].pop("det")
        plot_det(path=folder / "det.png", **det)
    _answer(options, results, *lines)


@_command(
    _argument("source", "folder or manifest"),
    _argument("--output", "folder for manifests", required=True),
    _argument("--data-folder", "folder of its paths (default: the source's)"),
    _argument("--test-fraction", "of a speaker's utterances", float, 0.25),
    _argument("--validation-sentences", "of a speaker, to choose by", int, 0),
    _argument("--seed", "of the split", int, 1234),
    _argument("--speaker-level", "level of the speakers' folders", int),
    _argument("--speaker-pattern", "regex: its group is the speaker's name"),
    _argument("--group", "column or regex: what to keep on one side"),
)
def _prepare(options):
    """Make manifests of your own recordings to train on.

    The corpus is a folder with a folder for each speaker, a CSV, TSV, JSON or
    JSON lines manifest with path and speaker (and id, split; start and stop in
    samples; start and end, or offset and duration, in seconds), a Kaldi data
    folder, lhotse's manifests, or a folder with the .scp lists and .npy labels
    of the authors' code. How it was understood is printed. Every recording
    is checked, and each speaker's utterances are split for training and
    testing. No audio is copied.

    example: amsincnet prepare recordings --output manifests
    """
    from amsincnet_sb.dataio.corpus import prepare_own_corpus, training_command

    summary = prepare_own_corpus(
        options.source,
        options.output,
        options.data_folder,
        options.test_fraction,
        options.validation_sentences,
        options.seed,
        options.speaker_level,
        options.speaker_pattern,
        options.group,
    )
    taken = [f"  {line}" for line in summary.options["taken"]]
    report = [f"  {line}" for line in summary.report()]
    for line in (
        f"{options.source}: {summary.options['corpus']}",
        *taken,
        *report,
        f"Manifests: {options.output}",
        "Train on them in recipes/TIMIT/speaker_id with",
    ):
        # A file's name need not be valid Unicode.
        print(line.encode(errors="backslashreplace").decode())
    print(f"  {training_command(options.output, summary)}")


@_command()  # the script has the options
def _sweep(arguments):
    """Train with many margins and seeds, and compare.

    example: amsincnet sweep hparams/am_sincnet.yaml --data_folder TIMIT
    """
    script = _recipe_module("TIMIT/speaker_id/sweep.py")
    return script.main(arguments, "amsincnet sweep")


@_command(
    _argument("folder", "where to"),
    _argument("--speakers", "their number", int, 20),
    _argument("--seed", "of all that is random", int, 0),
)
def _demo_corpus(options):
    """Generate speech-like utterances in TIMIT's layout.

    The same seed generates the same corpus.

    example: amsincnet demo-corpus demo/corpus --speakers 20
    """
    generate = _recipe_module("TIMIT/demo_corpus.py").generate_demo_corpus
    folder = generate(options.folder, options.speakers, seed=options.seed)
    print(f"Generated speech of {options.speakers} speakers: {folder}")


@_command(
    _argument("file", "model_raw_*.pkl"),
    _argument("folder", "results folder to make"),
    _argument("--labels", "TIMIT_labels.npy: names of the speakers"),
    _argument("--cfg", "default: the file beside the model, or the published"),
)
def _import_original(options):
    """Turn a model of the authors' code into a results folder.

    Reads a model_raw_*.pkl of the AM-SincNet or SincNet code and the .cfg
    file it was trained with. Nothing in these files is executed.

    example: amsincnet import-original model_raw.pkl results/original \\
        --labels TIMIT_labels.npy
    """
    from amsincnet_sb.original import import_original

    import_original(options.file, options.folder, options.labels, options.cfg)
    print(f"Imported {options.file}: {options.folder}")


@_command(
    _argument(
        "what",
        "picture",
        choices=["curves", "det", "confusions", "margins", "filters"],
    ),
    _argument("results", "results folder, for margins that of a sweep"),
    PUBLISHED,
    _argument("--output", "PNG (default: in the results folder)"),
)
def _plot(options):
    """Draw pictures of a results folder.

    Learning curves, misses against false alarms (of evaluate), confused
    speakers, errors against the margin (of sweep), or learned filters.

    example: amsincnet plot curves results/demo/1234 --published
    """
    from amsincnet_sb.report import draw_picture

    given = options.results, options.what, options.output, options.published
    print(draw_picture(*given))


@_command(*MODEL, _argument("output", "*.onnx, or a new folder"))
def _export(options):
    """Write a model for other programs: ONNX, or safetensors.

    A name ending in .onnx makes an ONNX file (waveform of any length to
    scores and speaker embedding), which onnxruntime runs for comparison;
    another name makes a folder with model.safetensors and config.json, which
    all commands read as well. Enrolled speakers are part of either.

    example: amsincnet export results/demo/1234 model.onnx
    """
    output, model = options.output, _load(options)
    if not output.endswith(".onnx"):
        model.save(output, safetensors=True)
        _answer(options, {"output": output}, output)
        return
    from amsincnet_sb.inference.export import export_onnx

    found = export_onnx(model, output)
    said = (
        f"  differs by at most {found.difference:.1e} of the largest value; "
        f"3 s of audio take {found.onnx_seconds:.3f} s in onnxruntime, "
        f"{found.torch_seconds:.3f} s in torch"
    )
    values = {"output": output, **found._asdict()}
    _answer(options, values, output, said)


@_command(
    _argument("results", "results folder"),
    PUBLISHED,
    _argument("--output", "HTML (default: report.html in the results folder)"),
)
def _report(options):
    """Write one HTML page about a results folder.

    It shows errors, learning curves, verification, confusions, filters and
    hyperparameters, and needs no other file.

    example: amsincnet report results/demo/1234
    """
    from amsincnet_sb.report import write_report

    print(write_report(options.results, options.output, options.published))


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


def _load(options):
    from amsincnet_sb.inference.identifier import SpeakerIdentifier

    return SpeakerIdentifier.from_results(options.model, options.device)


def _save(options, model, values, said):
    model.save()
    count = len(model.speakers)
    values = {**values, "speakers": count}
    _answer(options, values, f"{said}; the model knows {count} speakers.")


def _threshold(options):
    """The one given, None for the calibrated one."""
    given = options.threshold
    if given is not None and not math.isfinite(given):
        raise InputError(f"--threshold is {given} but must be a number.")
    return given


def _answer(options, values, *lines):
    """Print JSON to a pipe, and lines to a terminal."""
    if options.json or not sys.stdout.isatty():
        lines = (json.dumps(values),)
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
