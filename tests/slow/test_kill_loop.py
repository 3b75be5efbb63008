"""Killed at random moments, again and again, a run ends as if undisturbed.

A process is forked off for each attempt, so that it trains within a moment;
a checkpoint is written after every step, which takes most of the time.
"""

import os
import random
import signal
import sys
import time

import pytest
import recipe_process
import yaml
from kills import forked

pytestmark = pytest.mark.slow
KILLS = 60
OPTIONS = {
    **recipe_process.SMALL,
    **recipe_process.RUN,
    "batches_per_epoch": 25,
    "number_of_epochs": 6,
    "ckpt_interval_steps": 1,
    "device": "cpu",
}


@pytest.fixture
def train(tmp_path):
    """Trains in a process of its own; True if that came to its end."""
    # Optimizers import the compiler, which takes seconds: once, not per fork.
    import torch._dynamo  # noqa: F401

    import train as script

    corpus = recipe_process.corpus(tmp_path, speakers=4)

    def run(output):
        log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(recipe_process.RECIPE)
        options = {"data_folder": corpus, "output_folder": output, **OPTIONS}
        sys.argv = recipe_process.arguments("sinc_tdnn.yaml", **options)
        script.main()

    def attempt(output, seconds=float("inf")):
        child = forked(lambda: run(output))
        deadline = time.monotonic() + seconds
        found, status = 0, 0
        while not found and time.monotonic() < deadline:
            time.sleep(0.001)
            found, status = os.waitpid(child, os.WNOHANG)
        if not found:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False
        with open(f"{output}.log", encoding="utf-8") as file:
            assert os.WEXITSTATUS(status) == 0, file.read()[-5000:]
        return True

    return attempt


def newest_step(output):
    """Steps in the newest whole checkpoint; whether one was being written."""
    steps = [0]
    for folder in output.glob("save/CKPT*"):  # whole, or it raises
        state = yaml.safe_load((folder / "brain.ckpt").read_text())
        steps.append(state["optimizer_step"])
    return max(steps), any(output.glob("save/.CKPT*.*"))


def result(output):
    """Everything in the last checkpoint, and the metrics."""
    return recipe_process.state(output), recipe_process.metrics(output)


def test_kill_loop(train, tmp_path):
    begun = time.monotonic()
    assert train(tmp_path / "whole")
    whole = result(tmp_path / "whole")
    took = time.monotonic() - begun
    # From a fork to the kill: time enough for what comes after training.
    longest = max(3.0, took / 2)
    generator = random.Random(0)
    kills = writing = number = 0
    while kills < KILLS:
        number += 1
        output, steps = tmp_path / f"killed{number}", 0
        while not train(output, generator.uniform(0.05, longest)):
            kills += 1
            now, was_writing = newest_step(output)
            writing += was_writing
            assert now >= steps, "a completed save was lost"
            steps = now
        assert result(output) == whole
    print(
        f"\nundisturbed {took:.1f} s; {kills} kills in {number} runs, "
        f"{writing} of them while a checkpoint was being written: all ended "
        "with the same bits"
    )
    assert writing > 0
