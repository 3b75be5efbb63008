"""Every option of every command and script, fed with something wrong.

The options are those of the parsers: one that is new must get an entry here.
Every file that a command opens in a results folder is found by watching it:
one that is new must be named here too, and is then spoiled in several ways.
"""

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from shell import status_of

from amsincnet_sb import cli
from amsincnet_sb.dataio.manifest import Utterance, write_manifest
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.recipe_files import recipe_module

TESTS = Path(__file__).parents[1]
librispeech = recipe_module("LibriSpeech/librispeech_prepare.py")
sweep = recipe_module("TIMIT/speaker_id/sweep.py")
SINCNET = {
    "window": 400,
    "hop": 100,
    "cnn_channels": [4, 4],
    "cnn_kernel_sizes": [51, 5],
    "cnn_pools": [3, 3],
    "fc_neurons": [8, 8],
    "linear_embedding": True,
}
EXECUTOR = ["somewhere", "text.txt", "x://y"]
FLAG = ["=x"]  # an option that takes no value
NO_MODEL = ["none", "", "text.txt", "empty", "pipe", "a" * 300]
NO_AUDIO = ["none", "", "text.txt", "empty", "pipe"]
NO_LIST = ["none", "", "text.txt", "empty"]
NO_NUMBER = ["x", "", "1e99", "nan", "9" * 30, "-1"]
NO_FRACTION = ["x", "", "nan", "inf", "-0.5", "0", "1"]
MODEL = {"model": NO_MODEL, "--device": ["abc", "", "cuda:99"], "--json": FLAG}
CHANNEL = {"--channel": ["0", *NO_NUMBER]}
# Command -> a right command line, and the wrong values of each option.
WRONG = {
    "identify": (
        "model a.wav",
        {
            **MODEL,
            **CHANNEL,
            "--threshold": ["-1", "1.5", "x", "", "nan", "-inf"],
            "files": NO_AUDIO,
            "--top": ["0", *NO_NUMBER],
            "--unknown": FLAG,
            "--output": ["", "e.txt", "text.txt/e.jsonl"],
            "--executor": EXECUTOR,
        },
    ),
    "enroll": (
        "model zoe a.wav",
        {**MODEL, **CHANNEL, "name": ["", " ", "ann", "cat", "unknown", "a\nb"]}
        | {"files": NO_AUDIO, "--extend": FLAG}
        | {"--prototypes": ["0", "2", "9", *NO_NUMBER]},
    ),
    "speakers": ("model", MODEL),
    "remove": ("model cat", {**MODEL, "name": ["", "ann", "zoe"]}),
    "verify": (
        "model a.wav b.wav",
        {
            **MODEL,
            **CHANNEL,
            "--threshold": ["x", "", "nan", "-inf"],
            "a": NO_AUDIO,
            "b": [*NO_AUDIO, "model"],
            "--trials": NO_LIST,
            "--data-folder": ["none", "text.txt", "."],
            "--output": ["text.txt", "new.txt"],
        },
    ),
    "segments": (
        "model a.wav",
        {
            **MODEL,
            **CHANNEL,
            "file": NO_AUDIO,
            "--among": ["", "zoe"],
            "--count": ["0", *NO_NUMBER],
            "--minimum": ["11", *NO_NUMBER],
            "--threshold": ["-1", "1.5", "x", "", "nan", "-inf"],
            "--least-speech": NO_NUMBER,
            "--rate": ["0", "16000", *NO_NUMBER],
            "--rttm": ["", "text.txt/a", "link", "empty"],
            "--labels": ["", "text.txt/a", "link", "empty"],
            "--csv": ["", "text.txt/a", "link", "d.npz"],
            "--plot": ["", "text.txt/p.png", "link.png", "d.png"],
        },
    ),
    "embed": (
        "model a.wav --output e.npz",
        {
            **MODEL,
            **CHANNEL,
            "files": NO_AUDIO,
            "--output": ["", "e.txt", "text.txt/e.npz", "link.npz", "d.npz"],
            "--executor": EXECUTOR,
        },
    ),
    "evaluate": (
        "model --manifest model/test.csv --data-folder .",
        {
            **MODEL,
            **CHANNEL,
            "--manifest": NO_LIST,
            "--data-folder": ["none", "text.txt", "empty"],
            "--trials": NO_LIST,
            "--cohort": NO_LIST,
            "--calibrate": FLAG,
            "--output": ["text.txt", "text.txt/a"],
        },
    ),
    "prepare": (
        "recordings --output new",
        {
            "source": NO_LIST,
            "--output": ["text.txt", "text.txt/new"],
            "--data-folder": ["none", "model", "text.txt"],
            "--test-fraction": NO_FRACTION,
            "--validation-sentences": [*NO_NUMBER, "99"],
            "--seed": [v for v in NO_NUMBER if v != "-1"],
            "--speaker-level": ["9", *NO_NUMBER],
            "--speaker-pattern": ["(", "no group", "(no such name)"],
            "--group": ["(", "no group"],
        },
    ),
    "prepare-librispeech": (
        "empty new",
        {
            "source": ["none", "text.txt", "empty", ""],
            "output": ["text.txt", "text.txt/new"],
            "--seed": [v for v in NO_NUMBER if v != "-1"],
        },
    ),
    "demo-corpus": (
        "new --speakers 1",
        {
            "folder": ["text.txt", "model", "text.txt/new"],
            "--speakers": ["0", "999999999", *NO_NUMBER],
            "--seed": NO_NUMBER,
        },
    ),
    "import-original": (
        "raw.pkl new",
        {
            "file": [*NO_AUDIO, "a.wav"],
            "folder": ["text.txt", "text.txt/new"],
            "--labels": [*NO_LIST, "a.wav", "pipe"],
            "--cfg": [*NO_LIST, "pipe"],
        },
    ),
    "plot": (
        "filters model",
        {
            "what": ["", "x"],
            "results": ["none", "text.txt", "empty", "pipe"],
            "--published": FLAG,
            "--output": ["", "p.txt", "text.txt/p.png", "link.png", "d.png"],
        },
    ),
    "export": (
        "model new",
        {**MODEL, "output": ["model", "text.txt", "text.txt/new", "link"]},
    ),
    "report": (
        "model",
        {
            "results": ["none", "text.txt", "empty", "pipe"],
            "--published": FLAG,
            "--output": ["", "r.txt", "text.txt/r.html", "link.html", "d.html"],
        },
    ),
    "train": (
        "sweep.yaml",
        {"configuration": NO_LIST},
    ),
    "hparams": (
        "--copy new",
        {"--copy": ["text.txt", "text.txt/new"]},
    ),
    "sweep": (
        "sweep.yaml --output new",
        {
            "hparams": NO_LIST,
            "--margins": ["x", "", "0:1:0", "0:1:1e-9", "2", "nan", "1:0:1"],
            "--seeds": ["0", *NO_NUMBER],
            "--data-folder": ["none", "text.txt"],
            "--manifest": ["none", "text.txt"],
            "--baselines": NO_LIST,
            "--output": ["text.txt", "text.txt/new"],
            "--jobs-per-device": ["0", *NO_NUMBER],
            "--grid": ["none", "seed", "margin", "margni"],
            "--executor": EXECUTOR,
        },
    ),
    "librispeech_prepare.py": (
        "empty new",
        {
            "data_folder": ["none", "text.txt", "empty", ""],
            "output_folder": ["text.txt", "text.txt/new"],
            "--seed": [v for v in NO_NUMBER if v != "-1"],
        },
    ),
}


def parsers():
    """Name -> parser of every command, and of every script that has one."""
    sub = [
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    found = dict(sub[0].choices)
    found["sweep"] = sweep._parser("sweep")
    found["librispeech_prepare.py"] = librispeech._parser()
    return found


def options(parser):
    """The last name of each option of a parser, but for --help."""
    return {
        (action.option_strings or [action.dest])[-1]
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    }


def test_every_option_has_wrong_values():
    asked = {name: {*wrong} for name, (_, wrong) in WRONG.items()}
    assert asked == {name: options(p) for name, p in parsers().items()}


def test_every_script_with_options_is_here():
    scripts = (TESTS.parent / "recipes").rglob("*.py")
    asked = {s.name for s in scripts if "Parser(" in s.read_text()}
    assert asked == {"sweep.py", "librispeech_prepare.py"}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder in which every right command line is right."""
    folder = tmp_path_factory.mktemp("template")
    torch.manual_seed(0)
    net, classify = SincNet(**SINCNET).eval(), CosineClassifier(8, 2).eval()
    rng, rows = np.random.default_rng(0), []
    for speaker in ("ann", "bob"):
        for number in range(4):
            path = folder / "recordings" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 16000)
            wav = str(path.relative_to(folder))
            name = f"{speaker}-{number}"
            rows.append(Utterance(name, 0.25, wav, 0, 4000, speaker))
    model = folder / "model"
    write_pretrained(model / "pretrained", net, classify, ["ann", "bob"], 10.0)
    write_manifest(model / "test.csv", rows)
    who = SpeakerIdentifier.from_results(model)
    shutil.copy(folder / "recordings/ann/0.wav", folder / "a.wav")
    shutil.copy(folder / "recordings/bob/0.wav", folder / "b.wav")
    who.enroll("cat", folder / "b.wav")
    who.save()
    record = dict.fromkeys(
        ("loss", "frame_error", "sentence_error")
        + ("train_loss", "train_frame_error"),
        1.0,
    )
    MetricsLog(model / "metrics.jsonl").append(
        epoch=1, step=1, split="test", **record
    )
    (model / "sentences.csv").write_text("speaker,decision\nann,bob\n")
    (model / "hyperparams.yaml").write_text("margin: 0.1\n")
    (model / "margins.csv").write_text(
        "recipe,margin,seed,frame_error,sentence_error\n"
        "am,0.1,1,2.0,3.0\nam,0.2,1,2.0,3.0\n"
    )
    (folder / "sweep.yaml").write_text("margin: 0.1\n")
    (folder / "text.txt").write_text("This is just text, with commas.\n")
    for name in ("empty", "d.npz", "d.png", "d.html"):
        (folder / name).mkdir()
    for kind in (".npz", ".png", ".html", ""):
        (folder / f"link{kind}").symlink_to("text.txt")
    shutil.copy(TESTS / "fixtures/model_raw_small.pkl", folder / "raw.pkl")
    shutil.copy(TESTS / "fixtures/model_raw_small.cfg", folder / "raw.cfg")
    people = dict.fromkeys(range(8), "ann") | {0: "dan", 1: "bob"}
    cohort = [replace(row, spk_id=people[i]) for i, row in enumerate(rows)]
    write_manifest(folder / "cohort.csv", cohort)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        line = f"evaluate {WRONG['evaluate'][0]} --calibrate"
        assert cli.main([*line.split(), "--cohort", "cohort.csv"]) == 0
    return folder


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    """A copy of it, as the folder of the process."""
    folder = tmp_path / "place"
    shutil.copytree(template, folder, symlinks=True)
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    # A sweep that takes something wrong would start its trainings.
    monkeypatch.setattr("subprocess.Popen", None)
    return folder


def contents(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def run(capfd):
    """Status and output of a command or a script."""

    def command(name, arguments):
        capfd.readouterr()
        if name.endswith(".py"):
            status = status_of(arguments, librispeech.main)
        else:
            status = status_of([name, *arguments])
        return status, *capfd.readouterr()

    return command


def with_value(name, right, option, value):
    """The right command line with another value of an option."""
    arguments = right.split()
    if option.startswith("--"):
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
        given = f"{option}{value}" if value == "=x" else f"{option}={value}"
        if option in ("--baselines", "--grid"):
            return [*arguments, option, value]
        return [*arguments, given]
    places = [
        action.dest
        for action in parsers()[name]._actions
        if not action.option_strings
    ]
    arguments[places.index(option)] = value
    return arguments


CASES = [
    (name, option, value)
    for name, (_, wrong) in WRONG.items()
    for option, values in wrong.items()
    for value in values
]


@pytest.mark.parametrize("name, option, value", CASES)
def test_a_wrong_value_is_one_sentence(place, run, name, option, value):
    arguments = with_value(name, WRONG[name][0], option, value)
    before = contents(place)
    status, out, err = run(name, arguments)
    assert (status, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    assert contents(place) == before


LONG = ("sweep", "train", "librispeech_prepare.py", "prepare-librispeech")
RIGHT = [name for name in WRONG if name not in LONG]


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_command_lines_are_right(place, run, name):
    """The others need minutes, and a corpus: they have tests of their own."""
    status, _, err = run(name, WRONG[name][0].split())
    assert status in (0, 1), err


# Files -----------------------------------------------------------------------

READ = {
    "identify": "model a.wav",
    "verify": "model a.wav b.wav",
    "speakers": "model",
    "evaluate": "model --manifest model/test.csv --data-folder .",
    "report": "model",
    **{f"plot {what}": "model" for what in ("curves", "confusions", "det")},
    **{f"plot {what}": "model" for what in ("filters", "margins")},
}
# Every file of a results folder -> a command that reads it.
FILES = {
    "config.json": "identify",
    "embedding_model.ckpt": "identify",
    "classifier.ckpt": "identify",
    "enrolled.npz": "identify",
    "calibration.json": "verify",
    "cohort.npz": "verify",
    "test.csv": "evaluate",
    "hyperparams.yaml": "report",
    "evaluation.json": "plot det",
    "metrics.jsonl": "plot curves",
    "sentences.csv": "plot confusions",
    "margins.csv": "plot margins",
}
opened = None  # names, while somebody watches
sys.addaudithook(
    lambda event, args: opened is not None
    and event == "open"
    and isinstance(args[0], str | os.PathLike)
    and args[1] in ("r", "rb", None)
    and opened.append(Path(os.path.abspath(args[0])))
)


def test_every_file_that_is_read_is_spoiled_below(place, run):
    global opened
    opened = []
    try:
        for name, line in READ.items():
            command, *what = name.split()
            assert run(command, [*what, *line.split()])[0] in (0, 1)
        model = place / "model"
        found = {path.name for path in opened if model in path.parents}
    finally:
        opened = None
    # A name with a dot is that of a file being written.
    assert {name for name in found if name[0] != "."} == {*FILES}


SPOILED = {
    "nothing": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "a list": lambda path: path.write_text("[1]\n"),
    "depth": lambda path: path.write_text("[" * 10**5 + "\n"),
    "a number": lambda path: path.write_text(f"{'9' * 9999}\n"),
    "another kind": lambda path: path.write_text('{"a": {"b": [null]}}\n'),
    "a pipe": lambda path: path.unlink() or os.mkfifo(path),
    "a folder": lambda path: path.unlink() or path.mkdir(),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_file_is_one_sentence(place, run, spoil):
    for name, reader in FILES.items():
        if spoil == "a pipe" and name == "test.csv":
            continue  # a list may come from one, as in <(grep ...)
        if spoil not in ("a pipe", "a folder") and name == "hyperparams.yaml":
            continue  # it is shown as text
        path = min((place / "model").rglob(name), key=lambda p: len(p.parts))
        content = path.read_bytes()
        SPOILED[spoil](path)
        command, *what = reader.split()
        status, out, err = run(command, [*what, *READ[reader].split()])
        unread = name == "metrics.jsonl" and spoil == "nothing"
        assert (status, out) == (2, ""), name
        (line,) = err.splitlines()
        assert line.startswith("Error: ") and (name in line or unread)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(content)
