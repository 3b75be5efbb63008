"""Triton's interpreter, which runs kernels on the CPU, value by value."""

import subprocess
import sys

from recipe_process import environment


def run_interpreted(file):
    """Run a test file as the program of a process with the interpreter."""
    done = subprocess.run(
        [sys.executable, file],
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
