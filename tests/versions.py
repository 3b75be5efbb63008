"""Runs the package with the versions that setup.py allows; prints a table.

> make test-versions
> .venv/bin/python tests/versions.py --pythons 3.11 3.13 --sets newest

A set is the lowest versions, those of constraints.txt, or the newest. In an
environment for each Python and set, the wheel trains and identifies in an empty
folder, and the quick tests run. Needs uv, and an interpreter of each Python; on
a machine without a GPU, UV_TORCH_BACKEND=cpu saves gigabytes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.defpath}")
SETS = {
    "lowest": ["--resolution=lowest-direct", "--no-build"],
    "constraints": ["-c", str(ROOT / "constraints.txt")],
    "newest": [],
}
SHOWN = ["torch", "torchaudio", "speechbrain", "numpy"]
TRAIN = ["train", "demo", "--data-folder=TIMIT", "--output-folder=results"]
TRAIN += ["--number-of-epochs=2", "--batches-per-epoch=20", "--batch-size=16"]
COMMANDS = {
    "corpus": ["demo-corpus", "TIMIT", "--speakers=2"],
    "trains": TRAIN,
    "identifies": ["identify", "results", "TIMIT"],
}
# Layers, losses, kernels, checkpoints, yaml, audio, models of 0.1.0; seconds.
QUICK = "parity losses sinc features fast_cpu captured_step checkpoints brain"
QUICK += " hparams arguments audio batches identifier old_results recipe_files"


class Failed(Exception):
    """A command that did not succeed; the message is its output."""


def run(*command, **keywords):
    """Output of a command."""
    environment = {**os.environ, "PYTHONPATH": "", "UV_LINK_MODE": "hardlink"}
    ended = subprocess.run(
        [str(word) for word in command],
        env={**environment, "UV_PYTHON_DOWNLOADS": "never"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )
    if ended.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{ended.stdout[-9999:]}")
    return ended.stdout


def requirements(wheel):
    """Those of setup.py without the extras, as the wheel tells them."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needed = (line.partition(": ") for line in lines if "; extra" not in line)
    return [text for key, _, text in needed if key == "Requires-Dist"]


def cells(folder, python, chosen, wheel):
    """The cells of a row, one after another, until something fails."""
    run(UV, "venv", "-q", "--python", python, folder / "env")
    program = folder / "env" / "bin" / "python"
    install = [UV, "pip", "install", "-q", "--python", program]
    run(*install, *SETS[chosen], *requirements(wheel), wheel)
    size = sum(f.lstat().st_size for f in (folder / "env").rglob("*")) / 1e9
    run(*install, "pytest", "hypothesis")
    listed = run(UV, "pip", "freeze", "--python", program).splitlines()
    versions = dict(line.split("==") for line in listed if "==" in line)
    yield from (versions[name] for name in SHOWN)
    yield f"{size:.1f} GB"
    (folder / "empty").mkdir()
    for name, command in COMMANDS.items():
        command = [program, "-m", "amsincnet_sb", *command]
        run(*command, cwd=folder / "empty")
        if name != "corpus":
            yield "yes"
    files = [f"tests/unit/test_{name}.py" for name in QUICK.split()]
    run(program, "-m", "pytest", "-q", *files, cwd=ROOT)
    yield "pass"


def main():
    """Print the table; the exit status is 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    pythons = ["3.10", "3.11", "3.12", "3.13"]
    parser.add_argument("--pythons", nargs="+", default=pythons)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    options = parser.parse_args()
    if UV is None:
        sys.exit("There is no uv; type `pip install uv`.")
    status = 0
    with tempfile.TemporaryDirectory() as scratch:
        run(UV, "build", "-q", "--wheel", "-o", scratch, ROOT)
        (wheel,) = Path(scratch).glob("*.whl")
        head = ["Python", "set", *SHOWN, "size", *[*COMMANDS][1:], "tests"]
        print(f"| {' | '.join(head)} |", "|---" * len(head) + "|", sep="\n")
        for python in options.pythons:
            for chosen in options.sets:
                row = [python, chosen]
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        row.extend(cells(Path(folder), python, chosen, wheel))
                    except Failed as failed:
                        status = 1
                        print(failed, file=sys.stderr)
                        row += ["failed"] * (len(head) - len(row))
                print(f"| {' | '.join(row)} |", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
