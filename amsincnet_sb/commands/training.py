"""Commands that prepare a corpus and make models."""

import inspect
import runpy
import sys
from pathlib import Path

from amsincnet_sb.commands.common import check_given
from amsincnet_sb.options import argument, command
from amsincnet_sb.training.recipe_files import HPARAMS, RECIPES, recipe_module
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_output


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
def prepare(options):
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
    from amsincnet_sb.dataio.corpus import prepare_own_corpus, training_advice
    from amsincnet_sb.dataio.manifest import Provenance

    check_given("the source", options.source)
    check_given("--output", options.output)
    check_given("--data-folder", options.data_folder)
    for name in ("train.csv", "valid.csv", "test.csv", Provenance.FILE):
        check_output(Path(options.output, name), options.source)
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
        *training_advice(options.output, summary),
    )
    print(*lines, sep="\n")


@command(
    argument("source", "folder that holds any of its subsets"),
    argument("output", "folder for manifests"),
    argument("--seed", "of the choice of utterances", int, 1234),
)
def prepare_librispeech(options):
    """Make manifests of LibriSpeech to train on, as the SincNet paper does.

    Each speaker has 12 to 15 seconds to train on and a test utterance of 2 to
    6 seconds. No audio is copied.

    example: amsincnet prepare-librispeech LibriSpeech manifests
    """
    check_given("the source", options.source)
    check_given("the output", options.output)
    script = recipe_module("LibriSpeech/librispeech_prepare.py")
    script.main([options.source, options.output, f"--seed={options.seed}"])


# Read by the scripts, which take files as well and have the options; here for
# the completion of a shell.
CONFIGURATION = argument(
    "configuration",
    "of amsincnet hparams, or a file",
    choices=sorted(path.stem for path in HPARAMS.glob("*.yaml")),
    metavar="configuration",
)


@command(CONFIGURATION)
def train(arguments):
    """Train a network.

    Give a configuration (see amsincnet hparams) or a file of your own, and
    behind it any of its keys as --KEY=VALUE and SpeechBrain's options, such as
    --device=cuda:0. Results go into the folder results. On several GPUs:
    torchrun --nproc_per_node=4 -m amsincnet_sb train ...

    example: amsincnet train am_sincnet_m005 --data_folder=TIMIT
    """
    if {"-h", "--help"} & {*arguments}:
        print(f"{inspect.getdoc(train)}\n", flush=True)
    script = RECIPES / "TIMIT" / "speaker_id" / "train.py"
    sys.argv[1:] = arguments
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")


@command(CONFIGURATION)
def sweep(arguments):
    """Train with many margins and seeds, and compare.

    example: amsincnet sweep am_sincnet --data_folder TIMIT
    """
    script = recipe_module("TIMIT/speaker_id/sweep.py")
    return script.main(arguments, "amsincnet sweep")


@command(argument("--copy", "folder to copy them to", metavar="FOLDER"))
def hparams(options):
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
        check_output(there)
        if there.exists() and there.read_bytes() != path.read_bytes():
            raise InputError(
                f"{there} is there already, and differs; give another folder."
            )
    for path in files:
        with atomic_write(folder / path.name, "wb") as file:
            file.write(path.read_bytes())
    print(f"Copied {len(files)} files: {folder}")


@command(
    argument("folder", "where to"),
    argument("--speakers", "their number", int, 20, least=1),
    argument("--seed", "of all that is random", int, 0, least=0),
)
def demo_corpus(options):
    """Generate speech-like utterances in TIMIT's layout.

    The same seed generates the same corpus.

    example: amsincnet demo-corpus demo/corpus --speakers 20
    """
    generate = recipe_module("TIMIT/demo_corpus.py").generate_demo_corpus
    folder = generate(options.folder, options.speakers, seed=options.seed)
    print(f"Generated speech of {options.speakers} speakers: {folder}")


@command(
    argument("file", "model_raw_*.pkl"),
    argument("folder", "results folder to make"),
    argument("--labels", "TIMIT_labels.npy: names of the speakers"),
    argument("--cfg", "default: the file beside the model, or the published"),
)
def import_original(options):
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
