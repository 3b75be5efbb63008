"""Helpers for tests that need a SpeechBrain checkout beside this repository.

SpeechBrain's recipes and checks are not in its pip package. The environment
variable SPEECHBRAIN_CHECKOUT says where the checkout is; it is not changed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = os.environ.get("SPEECHBRAIN_CHECKOUT")

needs_checkout = pytest.mark.skipif(
    not CHECKOUT, reason="SPEECHBRAIN_CHECKOUT names no SpeechBrain checkout"
)


def shell(folder):
    """A folder with a `python` that finds this package from everywhere."""
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'PYTHONPATH="$PYTHONPATH:{ROOT}" exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return folder


def run(command, cwd, bin_folder, **variables):
    """Output of a command; if it fails, the end of it is in the error."""
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": CHECKOUT,
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout[-5000:]}")
    return done.stdout


def copy_of_repository(folder, of_speechbrain=False):
    """A copy for SpeechBrain's checks, which write into it.

    With ``of_speechbrain`` it has SpeechBrain's VoxCeleb scripts beside our
    hyperparameter files for them.
    """
    for name in ("recipes", "hparams", "tests/samples"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    rows = "recipes_of_speechbrain" if of_speechbrain else "recipes"
    shutil.copytree(ROOT / "tests" / rows, folder / "tests" / "recipes")
    if of_speechbrain:
        for script in Path(CHECKOUT, "recipes/VoxCeleb").rglob("*.py"):
            shutil.copy(script, folder / script.relative_to(CHECKOUT))
    return folder
