"""A SpeechBrain checkout beside this repository, for tests that need one.

Its recipes and its checks are not in its pip package. Where it is says the
environment variable SPEECHBRAIN_CHECKOUT; nothing in it is changed.
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

# Recipes of SpeechBrain's for which there are hyperparameter files here
HOSTS = {
    "VoxCeleb": "SpeakerRec",
    "UrbanSound8k": "SoundClassification",
    "CommonLanguage": "lang_id",
}


def shell(folder):
    """A folder with a `python` that finds this package wherever it runs."""
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'PYTHONPATH="$PYTHONPATH:{ROOT}" exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return folder


def run(command, cwd, bin_folder, check=True, **variables):
    """Run as a user does; what it said is in the error if it fails."""
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
    if check and done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout[-5000:]}")
    return done.stdout


def copy_of_repository(folder, of_speechbrain=False):
    """What SpeechBrain's checks look at, where they may write.

    With ``of_speechbrain`` it is SpeechBrain's recipes with our hyperparameter
    files in the place of its own, which is where those belong.
    """
    (folder / "tests").mkdir(parents=True)
    for name in ("recipes", "hparams", "tests/samples"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    rows = "recipes_of_speechbrain" if of_speechbrain else "recipes"
    shutil.copytree(ROOT / "tests" / rows, folder / "tests" / "recipes")
    if of_speechbrain:
        for corpus in HOSTS:
            for script in Path(CHECKOUT, "recipes", corpus).rglob("*.py"):
                to = folder / script.relative_to(CHECKOUT)
                shutil.copy(script, to)
    return folder
