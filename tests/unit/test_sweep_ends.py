"""A sweep's trainings end with it, and no two sweeps or runs mix."""

import os
import signal
import subprocess
import sys
import time

import pytest

from amsincnet_sb.dataio.corpus import prepare_own_corpus
from amsincnet_sb.training.children import Children
from amsincnet_sb.training.recipe_files import recipe_module
from amsincnet_sb.training.signals import STOPPED
from amsincnet_sb.utils.errors import InputError

sweep_script = recipe_module("TIMIT/speaker_id/sweep.py")
Sweep = sweep_script.Sweep

# Stands for a train.py that never ends, and says that it was asked to.
SCRIPT = """
import os, signal, sys, time
options = dict(a[2:].split("=", 1) for a in sys.argv[2:])
folder = options["output_folder"]
def stop(number, frame):
    open(os.path.join(folder, "asked"), "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
os.makedirs(folder)
with open(os.path.join(folder, "pid.part"), "w") as file:
    file.write(str(os.getpid()))
os.rename(os.path.join(folder, "pid.part"), os.path.join(folder, "pid"))
time.sleep(60)
"""


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "recipe"
    (folder / "hparams").mkdir(parents=True)
    (folder / "train.py").write_text(SCRIPT)
    text = "data_folder: !PLACEHOLDER\nmargin: 0.3\n"
    (folder / "hparams" / "am.yaml").write_text(text)
    return folder / "hparams" / "am.yaml"


def until(condition):
    for _ in range(600):
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it has not come")


def alive(pid):
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
# Stands for the sweep, without its imports.
PARENT = """
import sys
from amsincnet_sb.training.children import Children
with Children() as children:
    options = [f"--output_folder={sys.argv[2]}/am/{n}/1234" for n in (1, 2)]
    command = [sys.executable, sys.argv[1], "x.yaml"]
    started = [children.start([*command, option]) for option in options]
    for child in started:
        child.wait()
"""


def started(command, output):
    """The process, and those of the two trainings once they run."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )

    def both():
        """The files of the trainings."""
        found = list(output.glob("am/*/1234/pid"))
        return found if len(found) == 2 else None

    return process, [int(path.read_text()) for path in until(both)]


def ended(process, pids, output, status):
    """All have, the trainings after they were asked to."""
    assert process.wait(60) == status
    until(lambda: not any(map(alive, pids)))
    assert len(list(output.glob("am/*/1234/asked"))) == 2


@needs_linux
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_children_end_with_their_parent(recipe, tmp_path, sent):
    script = recipe.parents[1] / "train.py"
    command = ["-c", PARENT, script, tmp_path]
    process, pids = started(command, tmp_path)
    process.send_signal(sent)
    ended(process, pids, tmp_path, -sent)


@needs_linux
def test_the_trainings_end_with_the_sweep(recipe, tmp_path):
    output = tmp_path / "s"
    command = ["-m", "amsincnet_sb.cli", "sweep", recipe, "--margins=0.1,0.2"]
    command += ["--seeds=1", "--jobs-per-device=2", "--output", output]
    sweep, pids = started([*command, f"--data-folder={tmp_path}"], output)
    # Another one in the same folder is refused, and harms nothing.
    with pytest.raises(InputError, match=f"in use by process {sweep.pid}"):
        sweep_script.main([str(recipe), f"--output={output}"])
    sweep.terminate()
    ended(sweep, pids, output, STOPPED)


def test_one_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr("amsincnet_sb.training.children.PATIENCE", 0.2)
    deaf = "trap '' TERM; echo ready; sleep 60 & wait; wait"
    with pytest.raises(ZeroDivisionError):
        with Children() as children:
            child = children.start(
                ["sh", "-c", deaf], stdout=subprocess.PIPE, text=True
            )
            assert child.stdout.readline() == "ready\n"
            raise ZeroDivisionError
    assert child.returncode == -signal.SIGKILL
    child.stdout.close()
    with pytest.raises(InterruptedError):
        children.start(["true"])


@pytest.mark.parametrize(
    "margins, folders",
    [
        ("0.05,0.050,5e-2", ["m0.05"]),
        ("0.05,0.051", ["m0.05", "m0.051"]),
        ("0.1234567,0.1234568", ["m0.1234567", "m0.1234568"]),
        ("0,-0,1,1.0", ["m0", "m1"]),
        ("0.1:0.3:0.1", ["m0.1", "m0.2", "m0.3"]),
    ],
)
def test_a_folder_for_each_margin(recipe, tmp_path, margins, folders):
    margins = sweep_script.parse_margins(margins)
    sweep = Sweep(recipe, tmp_path / "s", margins, seeds=2)
    found = [sweep.folder(run).parent.name for run in sweep.runs]
    assert found == [folder for folder in folders for _ in range(2)]


def test_files_that_would_share_a_folder(recipe, tmp_path):
    other = tmp_path / "am.yaml"
    other.write_text(recipe.read_text())
    with pytest.raises(InputError, match="would both train in"):
        Sweep(recipe, tmp_path / "s", [0.3], baselines=[other])
    assert len(Sweep(recipe, tmp_path / "s", [0.1], 1, [other]).runs) == 2
    # The same file twice, with its own margin, is one run.
    assert len(Sweep(recipe, tmp_path / "t", [0.3], 1, [recipe]).runs) == 1


def test_finished_runs_of_something_else(recipe, tmp_path, monkeypatch):
    """Their errors would stand in one table with new ones."""
    folder, text = tmp_path / "s", recipe.read_text()
    Sweep(recipe, folder, [0.1])
    recipe.write_text(text + "lr: 0.1\n")
    with pytest.raises(InputError, match="sweep for which am was another"):
        Sweep(recipe, folder, [0.1])
    recipe.write_text(text + "# a comment\n")
    Sweep(recipe, folder, [0.1])


def test_another_preparation(recipe, tmp_path):
    samples = recipe.parents[1].parent / "corpus"
    noise(samples)
    prepare_own_corpus(samples, tmp_path / "m")
    options = [f"--manifest={tmp_path / 'm'}"]
    Sweep(recipe, tmp_path / "s", [0.1], options=options)
    prepare_own_corpus(samples, tmp_path / "m")
    Sweep(recipe, tmp_path / "s", [0.2], options=options)
    prepare_own_corpus(samples, tmp_path / "m", test_fraction=0.6)
    with pytest.raises(InputError, match="for which the preparation .*m was"):
        Sweep(recipe, tmp_path / "s", [0.1], options=options)


def noise(folder):
    """Two speakers with five recordings."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(0)
    for number in range(10):
        path = folder / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.uniform(-0.5, 0.5, 4000), 16000)
