"""Every command that writes, killed at random moments, again and again.

What it writes is whole or not there, what a person made stays, and the next
start ends as an undisturbed one does, with nothing left over.
"""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import recipe_process
import soundfile
from recipe_process import RECIPE

from amsincnet_sb import cli
from amsincnet_sb.dataio.corpus import find_manifests
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference import SpeakerIdentifier
from amsincnet_sb.utils.errors import InputError

pytestmark = pytest.mark.slow
KILLS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus, recordings of it, and a model with a speaker enrolled."""
    import torch._dynamo  # imported once, not in every fork

    import train  # noqa: F401

    # A fork of a process whose torch has used several waits for them for ever.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    corpus = recipe_process.corpus(folder, speakers=4)
    options = {
        **recipe_process.SMALL,
        **recipe_process.RUN,
        "data_folder": corpus,
        "output_folder": folder / "model",
    }
    assert _forked(_train, folder, options) == 0
    sentences = sorted(corpus.glob("TRAIN/*/*/SI*.WAV"))
    for path in corpus.glob("TRAIN/*/*/*.WAV"):
        copy = folder / "recordings" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(copy, *soundfile.read(path), format="WAV")
    command = ["enroll", str(folder / "model"), "anna", str(sentences[0])]
    assert _forked(cli.main, folder, command) == 0
    return folder


def _train(options):
    import train

    os.chdir(RECIPE)
    recipe_process.sys.argv = recipe_process.arguments(
        "sinc_tdnn.yaml", **options
    )
    train.main()
    return 0


def _forked(call, folder, argument, seconds=float("inf")):
    """The status of a call in a process of its own; None if killed."""
    log = folder / "log.txt"
    child = os.fork()
    if not child:
        status = 1
        try:
            # With its children, if it has any, in no group of ours.
            os.setsid()
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            status = call(argument)
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _speakers(folder):
    who = SpeakerIdentifier.from_results(folder)
    return who.speakers


def _no_leftovers(folder):
    """Files and folders under a temporary name."""
    return [p for p in folder.rglob("*") if ".tmp" in p.name or "~" in p.name]


class Prepare:
    """``prepare``: all manifests, or a folder that says it is unfinished."""

    def command(self, made, work):
        """What is typed."""
        return ["prepare", str(made / "recordings"), "--output", str(work)]

    def check(self, made, work):
        """After every kill."""
        with contextlib.suppress(InputError):
            found = find_manifests(work)[1]
            assert len(read_manifest(found["train_annotation"])) == 24

    def result(self, work):
        """What an undisturbed run leaves."""
        names = sorted(path.name for path in work.iterdir())
        return names, (work / "train.csv").read_text()


class _OfAModel:
    """A command on a copy of the model, whose enrolled speaker stays."""

    def prepare(self, made, work):
        """Before the first attempt."""
        shutil.copytree(made / "model", work / "model")

    def check(self, made, work):
        """After every kill."""
        assert "anna" in _speakers(work / "model")

    def result(self, work):
        """What an undisturbed run leaves."""
        files = sorted(p.relative_to(work) for p in work.rglob("*"))
        return [str(path) for path in files], _speakers(work / "model")


class Enroll(_OfAModel):
    """``enroll``: the old speakers, or they and the new one."""

    def command(self, made, work):
        """What is typed."""
        wavs = sorted(map(str, made.glob("recordings/*/SX*.WAV")))[:3]
        return ["enroll", str(work / "model"), "bob", *wavs]


class Evaluate(_OfAModel):
    """``evaluate --calibrate --cohort``: thresholds whole or not there."""

    def command(self, made, work):
        """What is typed."""
        manifests = made / "model" / "manifests"
        return [
            "evaluate",
            str(work / "model"),
            f"--manifest={manifests / 'test.csv'}",
            f"--cohort={manifests / 'train.csv'}",
            f"--data-folder={made / 'TIMIT'}",
            "--calibrate",
        ]

    def check(self, made, work):
        """After every kill."""
        super().check(made, work)
        path = work / "model" / "evaluation.json"
        if path.exists():
            json.loads(path.read_text())


class Report(_OfAModel):
    """``report``: a page that ends, or none."""

    def command(self, made, work):
        """What is typed."""
        return ["report", str(work / "model")]

    def check(self, made, work):
        """After every kill."""
        super().check(made, work)
        path = work / "model" / "report.html"
        if path.exists():
            assert path.read_text().rstrip().endswith("</html>")


class Export(_OfAModel):
    """``export``: a folder with everybody in it, or none."""

    def command(self, made, work):
        """What is typed."""
        return ["export", str(work / "model"), str(work / "out")]

    def check(self, made, work):
        """After every kill."""
        super().check(made, work)
        if (work / "out").exists():
            assert _speakers(work / "out") == _speakers(made / "model")


class Embed(_OfAModel):
    """``embed``: a file that can be read, or none."""

    def command(self, made, work):
        """What is typed."""
        files = str(made / "recordings"), "--output", str(work / "all.npz")
        return ["embed", str(work / "model"), *files]

    def check(self, made, work):
        """After every kill."""
        super().check(made, work)
        if (work / "all.npz").exists():
            with np.load(work / "all.npz") as found:
                assert len(found["files"]) == len(found["embeddings"]) > 0


class Sweep:
    """``sweep``: finished runs are kept, and trainings end with it."""

    def command(self, made, work):
        """What is typed."""
        options = {**recipe_process.SMALL, **recipe_process.RUN}
        return [
            "sweep",
            str(RECIPE / "hparams" / "sinc_tdnn.yaml"),
            "--margins=0.1,0.2",
            "--seeds=1",
            f"--data-folder={made / 'TIMIT'}",
            f"--output={work / 'sweep'}",
            "--",
            *(f"--{key}={value}" for key, value in options.items()),
        ]

    def check(self, made, work):
        """After every kill."""
        end = time.monotonic() + 20  # they save a checkpoint first
        while _trainings_in(work) and time.monotonic() < end:
            time.sleep(0.1)
        assert not _trainings_in(work)
        table = work / "sweep" / "margins.csv"
        if table.exists():
            with open(table, newline="") as file:
                assert all(row["frame_error"] for row in csv.DictReader(file))

    def result(self, work):
        """What an undisturbed run leaves."""
        return (work / "sweep" / "margins.csv").read_text()


def _trainings_in(work):
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{process}/cmdline", "rb") as file:
                command = file.read()
            if b"train.py" in command and os.fsencode(work) in command:
                found.append(process)
    return found


@pytest.mark.parametrize(
    "kind", [Prepare, Enroll, Evaluate, Report, Export, Embed, Sweep]
)
def test_killed(kind, made, tmp_path):
    case, generator = kind(), random.Random(0)

    def begin(name):
        work = tmp_path / name
        work.mkdir()
        if hasattr(case, "prepare"):
            case.prepare(made, work)
        return work, case.command(made, work)

    work, command = begin("whole")
    start = time.monotonic()
    assert _forked(cli.main, tmp_path, command) == 0, _log(tmp_path)
    took, whole = time.monotonic() - start, case.result(work)
    kills = number = 0
    while kills < KILLS:
        number += 1
        work, command = begin(f"killed{number}")
        longest = 1.1 * took
        while True:
            seconds = generator.uniform(0, longest)
            status = _forked(cli.main, tmp_path, command, seconds)
            case.check(made, work)
            if status is not None:
                break
            kills += 1
            if kills >= KILLS:
                longest = 10 * took
        # Killed behind its last operation, it has nothing left to do.
        done = status == 2 and "already" in _log(tmp_path)
        assert status == 0 or done, _log(tmp_path)
        assert not _no_leftovers(work)
        found = case.result(work)
        if isinstance(found, tuple):
            assert found[1] == whole[1] and set(found[0]) == set(whole[0])
        else:
            assert found == whole
        shutil.rmtree(work)
    print(
        f"\n{kind.__name__}: {took:.1f} s undisturbed; {kills} kills in "
        f"{number} runs, nothing half-written and nothing lost"
    )


def _log(folder):
    return (folder / "log.txt").read_text(errors="replace")[-3000:]
