"""The console command ``amsincnet``.

A function below is a command: its docstring is the help. Each imports what it
needs when it runs, so that ``--help`` does not wait for it.
"""

import importlib.util
import inspect
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

from amsincnet_sb import __version__
from amsincnet_sb.options import argument, command, make_parser, one_spelling
from amsincnet_sb.training.recipe_files import HPARAMS, RECIPES
from amsincnet_sb.utils.errors import InputError, exit_on_input_error
from amsincnet_sb.utils.files import atomic_write, check_output

__all__ = ["main", "one_spelling"]

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
        parser = _parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks; ends the process
            import argcomplete

            argcomplete.autocomplete(parser)
        if arguments[:1] == ["train"]:
            return _train(arguments[1:]) or 0
        if arguments[:1] == ["sweep"]:
            return _sweep(arguments[1:])
        arguments[:1] = [OLD_NAMES.get(word, word) for word in arguments[:1]]
        options = parser.parse_args(one_spelling(arguments))
        return options.run(options) or 0


def _parser():
    return make_parser(
        "amsincnet",
        "Speaker identification with AM-SincNet.",
        __version__,
        STATUSES,
    )


MODEL = (
    argument("model", "results folder of a finished training run"),
    argument("--device", "cpu, cuda, …", default="cpu"),
    argument("--json", "JSON on a terminal", bool),
)
FILES = argument(
    "files", "recordings, folders of them, or -", nargs="+", metavar="file"
)
CHANNEL = argument("--channel", "from 1 on (default: their mean)", int, least=1)
PUBLISHED = argument("--published", "draw TIMIT's published curves too", bool)


@command(
    *MODEL,
    CHANNEL,
    FILES,
    argument("--top", "candidates to show", int, 3, least=1),
    argument("--unknown", "'unknown' where too little is for anybody", bool),
    argument("--threshold", "least probability, 0 to 1", float),
)
def _identify(options):
    """Name the speakers of recordings.

    A terminal shows a table; a pipe gets one JSON object per file. --unknown
    uses the calibrated threshold; --threshold gives another. A folder stands
    for the audio files in it and below, - for one on standard input.

    example: amsincnet identify results/demo/1234 a.wav b.flac
    """
    model, threshold = _load(options), options.threshold
    if options.unknown and threshold is None:
        threshold = model.threshold("identification")
    names, recordings, failed = _recordings(options.files)
    answers = model.identify_all(recordings, options.top, threshold, True)
    for path, candidates in zip(names, answers):
        if isinstance(candidates, InputError):
            failed = _complain(candidates)
            continue
        lines = [
            f"  {speaker}"
            if score is None
            else f"  {speaker:<20} probability {chance:6.1%}  score {score:8.3f}"
            for speaker, score, chance in candidates
        ]
        # The probability by its old name too.
        best = [{**c._asdict(), "share": c.share} for c in candidates]
        _answer(options, {"file": path, "candidates": best}, path, *lines)
    return failed


@command(
    *MODEL,
    CHANNEL,
    argument("name", "of the new speaker"),
    FILES,
    argument("--extend", "the speaker is enrolled: add recordings", bool),
)
def _enroll(options):
    """Add a speaker to a model, without training.

    The model's folder gets the file enrolled.npz. All recordings must be of
    the speaker; those that cannot be used are left out, and told.

    example: amsincnet enroll results/demo/1234 anna anna1.wav anna2.wav
    """
    model, name = _load_to_change(options), options.name
    _, recordings, failed = _recordings(options.files)
    if failed and not recordings:
        return failed  # of which it is told
    left_out = model.enroll(name, recordings, options.extend, errors=True)
    files = len(recordings) - len(left_out)
    said = f"Enrolled {name} from {files} {'more ' * options.extend}file(s)"
    _save(options, model, {"enrolled": name, "files": files}, said)
    return max([failed, *map(_complain, left_out)])


@command(*MODEL)
def _speakers(options):
    """List the speakers of a model: trained ones, then enrolled ones.

    A terminal shows a table; a pipe gets one JSON object per speaker. It tells
    from how many recordings a speaker was enrolled, where that is known.

    example: amsincnet speakers results/demo/1234
    """
    model = _load(options)
    for name in model.speakers:
        one = model.classifier.enrolled.get(name)
        values = {"speaker": name, "kind": "enrolled" if one else "trained"}
        if one:
            values["recordings"] = len(one.directions) or None
        count = values.get("recordings")
        said = f"{name:<20} {values['kind']}"
        said += f" from {count} recording(s)" if count else ""
        _answer(options, values, said)


@command(*MODEL, argument("name", "of the enrolled speaker"))
def _remove(options):
    """Remove an enrolled speaker from a model.

    example: amsincnet remove results/demo/1234 anna
    """
    model = _load_to_change(options)
    model.remove(options.name)
    _save(options, model, {"removed": options.name}, f"Removed {options.name}")


@command(
    *MODEL,
    CHANNEL,
    argument("a", "recording, or -", nargs="?"),
    argument("b", "recording, or -", nargs="?"),
    argument("--threshold", "least score (default: calibrated)", float),
    argument("--trials", "list of pairs to score, in place of a and b"),
    argument("--data-folder", "where its recordings are"),
    argument("--output", "file for its scores"),
)
def _verify(options):
    """Decide whether two recordings are of the same speaker.

    Exit status: 0 accepted, 1 rejected, another after an error.

    With --trials, the pairs of a list get scores and no decision: '1 path path'
    as VoxCeleb has it (written as 'score path path'), 'id id target' as Kaldi
    has it ('id id score'; the --data-folder has a wav.scp), or 'path path'
    without labels. Equal error and minimum cost are told where there are labels.

    example: amsincnet verify results/demo/1234 a.wav b.flac
    """
    if options.trials is not None:
        return _verify_trials(options)
    if options.b is None or options.data_folder or options.output:
        raise InputError(
            "Give two recordings, or --trials, --data-folder and --output."
        )
    model, threshold = _load(options), options.threshold
    _, recordings, failed = _recordings([options.a, options.b])
    if failed:
        return failed
    if len(recordings) != 2:
        raise InputError("Give two recordings, not folders of others.")
    if threshold is None:
        threshold = model.threshold("verification")
    score, accepted = model.verify(*recordings, threshold)
    values = dict(score=score, threshold=threshold, accepted=accepted)
    said = "same speaker" if accepted else "different speakers"
    said += f"  score {score:.3f}  threshold {threshold:.3f}"
    _answer(options, values, said)
    return 0 if accepted else 1


def _verify_trials(options):
    """Write the scores of a list of trials."""
    from amsincnet_sb.inference import trials

    given = options.a, options.threshold
    if given != (None, None) or not (options.data_folder and options.output):
        raise InputError(
            "--trials needs --data-folder and --output, and neither recordings "
            "nor --threshold."
        )
    listed = trials.read_trial_list(options.trials)
    paths = trials.find_recordings(listed, options.data_folder)
    check_output(options.output, options.trials, *paths.values())
    scores, left_out = trials.score_trials(_load(options), listed, paths)
    found = trials.write_scores(options.output, listed, scores)
    lines = [f"Scores of {found['trials']} trials: {options.output}"]
    if "eer" in found:
        lines.append(f"  equal error     {found['eer']:8.3f} %")
        lines.append(f"  minDCF (0.01)   {found['min_dcf']:8.3f}")
    _answer(options, found, *lines)
    return max([0, *map(_complain, left_out)])


@command(
    *MODEL,
    CHANNEL,
    FILES,
    argument("--output", "*.npz or *.csv", required=True),
)
def _embed(options):
    """Write speaker embeddings (d-vectors) of recordings to a file.

    An npz has the arrays files and embeddings, a CSV a row per file. A folder
    stands for the audio files in it and below, - for one on standard input.

    example: amsincnet embed results/demo/1234 a.wav b.flac --output all.npz
    """
    import torch

    from amsincnet_sb.inference.export import write_embeddings

    if Path(options.output).suffix not in (".npz", ".csv"):
        raise InputError(
            f"--output is {options.output} but must end with .npz or .csv."
        )
    names, recordings, failed = _recordings(options.files)
    check_output(options.output, *names)
    model = _load(options)
    rows = []
    for path, found in zip(names, model.analyse_all(recordings, errors=True)):
        if isinstance(found, InputError):
            failed = _complain(found)
        else:
            rows.append((path, found.embedding.cpu()))
    if rows:
        files, embeddings = zip(*rows)
        write_embeddings(options.output, files, torch.stack(embeddings))
        count, size = len(files), len(embeddings[0])
        values = {"output": options.output, "files": count, "size": size}
        said = f"{count} speaker embeddings of {size} dimensions"
        _answer(options, values, f"{said}: {options.output}")
    return failed


@command(
    *MODEL,
    CHANNEL,
    argument("--manifest", "CSV of a preparation", required=True),
    argument("--data-folder", "folder of its paths", required=True),
    argument("--trials", "pairs, '1 id id' or '0 id id' (default: all)"),
    argument("--calibrate", "keep the thresholds of equal errors", bool),
    argument("--cohort", "manifest of training sentences"),
    argument("--output", "folder of its files (default: the model's)"),
)
def _evaluate(options):
    """Measure errors of identification and verification on a manifest.

    Identification is of the closed and the open set. Writes evaluation.json
    and det.png into --output. --calibrate keeps the thresholds for
    verify and identify --unknown; the speakers of a --cohort normalise the
    scores of verification and are kept with them.

    example: amsincnet evaluate results/demo/1234 --manifest \\
        results/demo/1234/manifests/test.csv --data_folder demo/corpus
    """
    from amsincnet_sb.inference import evaluation
    from amsincnet_sb.plots import plot_det

    manifest, corpus = options.manifest, options.data_folder
    given = options.model if options.output is None else options.output
    folder = Path(given)
    written = folder / "evaluation.json", folder / "det.png"
    for path in written:
        inputs = manifest, options.trials, options.cohort
        check_output(path, *filter(None, inputs))
    model = _load_to_change(options) if options.calibrate else _load(options)
    left_out = []
    # Every window that the evaluation of a training run counts.
    model.hop = model.embedding_model.hop
    if options.cohort is not None:
        model.cohort = evaluation.cohort_from(
            model, options.cohort, corpus, left_out
        )
    results = evaluation.evaluate_model(
        model, manifest, corpus, options.trials, left_out
    )
    if options.calibrate:
        model.calibration = evaluation.calibration_from(results, manifest)
    whole, det = json.dumps(results, indent=1), None
    if results["verification"]:
        det = results["verification"].pop("det")
    try:  # neither a full disk nor a reader that is gone costs the other
        _answer(options, results, *evaluation.report(results))
    finally:
        if options.calibrate:
            model.save()
        with atomic_write(written[0]) as file:
            file.write(whole)
        if det:
            plot_det(path=written[1], **det)
    return max([0, *map(_complain, left_out)])


@command(
    argument("source", "folder or manifest"),
    argument("--output", "folder for manifests", required=True),
    argument("--data-folder", "folder of its paths (default: the source's)"),
    argument("--test-fraction", "of a speaker's utterances", float, 0.25),
    argument("--validation-sentences", "of a speaker, to choose by", int, 0),
    argument("--seed", "of the split", int, 1234),
    argument("--speaker-level", "level of the speakers' folders", int),
    argument("--speaker-pattern", "regex: its group is the speaker's name"),
    argument("--group", "column or regex: what to keep on one side"),
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

    for split in ("train", "valid", "test"):
        check_output(Path(options.output, f"{split}.csv"), options.source)
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
    lines = (
        f"{options.source}: {summary.options['corpus']}",
        *taken,
        *report,
        f"Manifests: {options.output}",
        "Train on them with",
        f"  {training_command(options.output, summary)}",
    )
    print(*lines, sep="\n")


# Read by the scripts, which take files as well and have the options; here for
# the completion of a shell.
CONFIGURATION = argument(
    "configuration",
    "of amsincnet hparams, or a file",
    choices=sorted(path.stem for path in HPARAMS.glob("*.yaml")),
    metavar="configuration",
)


@command(CONFIGURATION)
def _train(arguments):
    """Train a network.

    Give a configuration (see amsincnet hparams) or a file of your own, and
    behind it any of its keys as --KEY=VALUE and SpeechBrain's options, such as
    --device=cuda:0. Results go into the folder results. On several GPUs:
    torchrun --nproc_per_node=4 -m amsincnet_sb train ...

    example: amsincnet train am_sincnet_m005 --data_folder=TIMIT
    """
    if {"-h", "--help"} & {*arguments}:
        print(f"{inspect.getdoc(_train)}\n", flush=True)
    script = RECIPES / "TIMIT" / "speaker_id" / "train.py"
    sys.argv[1:] = arguments
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")


@command(CONFIGURATION)
def _sweep(arguments):
    """Train with many margins and seeds, and compare.

    example: amsincnet sweep am_sincnet --data_folder TIMIT
    """
    script = _recipe_module("TIMIT/speaker_id/sweep.py")
    return script.main(arguments, "amsincnet sweep")


@command(argument("--copy", "folder to copy them to", metavar="FOLDER"))
def _hparams(options):
    """List the configurations, or copy them to be edited.

    Each is a hyperparameter file. Their includes are found beside them, so all
    are copied. A file that is there already is never replaced.

    example: amsincnet hparams --copy my_hparams
    """
    files = sorted(HPARAMS.glob("*.yaml"))
    if not options.copy:
        print(*(path.stem for path in files), sep="\n")
        return
    folder = Path(options.copy)
    for path in files:
        there = folder / path.name
        if there.exists() and there.read_bytes() != path.read_bytes():
            raise InputError(
                f"{there} is there already, and differs; give another folder."
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    print(f"Copied {len(files)} files: {folder}")


@command(
    argument("folder", "where to"),
    argument("--speakers", "their number", int, 20, least=1),
    argument("--seed", "of all that is random", int, 0, least=0),
)
def _demo_corpus(options):
    """Generate speech-like utterances in TIMIT's layout.

    The same seed generates the same corpus.

    example: amsincnet demo-corpus demo/corpus --speakers 20
    """
    generate = _recipe_module("TIMIT/demo_corpus.py").generate_demo_corpus
    folder = generate(options.folder, options.speakers, seed=options.seed)
    print(f"Generated speech of {options.speakers} speakers: {folder}")


@command(
    argument("file", "model_raw_*.pkl"),
    argument("folder", "results folder to make"),
    argument("--labels", "TIMIT_labels.npy: names of the speakers"),
    argument("--cfg", "default: the file beside the model, or the published"),
)
def _import_original(options):
    """Turn a model of the authors' code into a results folder.

    Reads a model_raw_*.pkl of the AM-SincNet or SincNet code and the .cfg
    file it was trained with. Nothing in these files is executed.

    example: amsincnet import-original model_raw.pkl results/original \\
        --labels TIMIT_labels.npy
    """
    from amsincnet_sb.original import import_original

    check_output(Path(options.folder, "pretrained", "config.json"))
    import_original(options.file, options.folder, options.labels, options.cfg)
    print(f"Imported {options.file}: {options.folder}")


@command(
    argument(
        "what",
        "picture",
        choices=["curves", "det", "confusions", "margins", "filters"],
    ),
    argument("results", "results folder, for margins that of a sweep"),
    PUBLISHED,
    argument("--output", "PNG (default: in the results folder)"),
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


@command(*MODEL, argument("output", "*.onnx, or a new folder"))
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
    check_output(output)
    from amsincnet_sb.inference.export import export_onnx

    found = export_onnx(model, output)
    said = (
        f"  differs by at most {found.difference:.1e} of the largest value; "
        f"3 s of audio take {found.onnx_seconds:.3f} s in onnxruntime, "
        f"{found.torch_seconds:.3f} s in torch"
    )
    values = {"output": output, **found._asdict()}
    _answer(options, values, output, said)


@command(
    argument("results", "results folder"),
    PUBLISHED,
    argument("--output", "HTML (default: report.html in the results folder)"),
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
    """A script of the recipes, as a module."""
    path = RECIPES / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load(options):
    from amsincnet_sb.inference.identifier import SpeakerIdentifier

    model = SpeakerIdentifier.from_results(options.model, options.device)
    model.channel = getattr(options, "channel", None)
    return model


def _load_to_change(options):
    from amsincnet_sb.inference.pretrained import find_pretrained

    check_output(find_pretrained(options.model) / "enrolled.npz")
    return _load(options)


def _recordings(names):
    """Names and recordings, and 2 if one could not be found, else 0."""
    from amsincnet_sb.inference.recordings import from_command_line

    found, status = [], 0
    for name, recording in from_command_line(names):
        if isinstance(recording, InputError):
            status = _complain(recording)
        else:
            found.append((name, recording))
    return [name for name, _ in found], [each for _, each in found], status


def _complain(error):
    """Say what is wrong with one of several recordings; the exit status."""
    print(f"Error: {error}", file=sys.stderr, flush=True)
    return 2


def _save(options, model, values, said):
    model.save()
    count = len(model.speakers)
    values = {**values, "speakers": count}
    _answer(options, values, f"{said}; the model knows {count} speakers.")


def _answer(options, values, *lines):
    """Print JSON to a pipe, and lines to a terminal."""
    if options.json or not sys.stdout.isatty():
        lines = (json.dumps(values),)
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
