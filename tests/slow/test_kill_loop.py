"""Killed at random moments, again and again, a run ends as if undisturbed.

A process is forked off for each attempt, so that it trains within a moment;
a checkpoint is written after every step, which takes most of the time.
"""

import importlib.util
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from demo_corpus import generate_demo_corpus

RECIPE = Path(__file__).parents[2] / "recipes" / "TIMIT" / "speaker_id"
KILLS = 60
OPTIONS = {
    "window": 1600,
    "hop": 800,
    "sinc_channels": 4,
    "sinc_kernel_size": 51,
    "tdnn_channels": "[4,4]",
    "tdnn_kernel_sizes": "[5,3]",
    "tdnn_strides": "[3,1]",
    "fc_neurons": "[8,8]",
    "embedding_size": 8,
    "batch_size": 8,
    "batches_per_epoch": 25,
    "number_of_epochs": 6,
    "valid_interval": 1,
    "windows_per_batch": 256,
    "ckpt_interval_steps": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location(
        "killed_train", RECIPE / "train.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["killed_train"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "TIMIT"
    return generate_demo_corpus(folder, speakers=4, progress=False)


def forked(train, corpus, output, seconds=None):
    """Train in a process of its own; True if it came to its end."""
    output.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        log = os.open(
            f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 1
        try:
            os.chdir(RECIPE)
            options = {
                "data_folder": corpus,
                "output_folder": output,
                **OPTIONS,
            }
            sys.argv = ["train.py", "hparams/am_sincnet_m005.yaml"]
            sys.argv += [f"--{key}={value}" for key, value in options.items()]
            train.main()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        found, status = 0, 0
        while not found and time.monotonic() < deadline:
            time.sleep(0.001)
            found, status = os.waitpid(child, os.WNOHANG)
        if not found:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    text = Path(f"{output}.log").read_text(encoding="utf-8")
    assert os.WEXITSTATUS(status) == 0, text[-5000:]
    return True


def newest_step(output):
    """Steps in the newest whole checkpoint; whether one was being written."""
    save = output / "save"
    steps = [0]
    for folder in save.glob("CKPT*"):
        state = yaml.safe_load((folder / "brain.ckpt").read_text())
        steps.append(state["optimizer_step"])
    return max(steps), bool(list(save.glob(".CKPT*.*")))


def result(output):
    """Everything in the last checkpoint and the record of the run."""
    (folder,) = (output / "save").glob("CKPT*")
    files = {}
    for path in sorted(folder.glob("*.ckpt")):
        files[path.name] = path.read_bytes()
        try:
            content = torch.load(path, weights_only=True)
        except Exception:  # a text
            continue
        files[path.name] = flat(content)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    files["metrics"] = [line.split('"seconds"')[0] for line in lines]
    return files


def flat(tree):
    if isinstance(tree, dict):
        return {str(key): flat(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [flat(value) for value in tree]
    if torch.is_tensor(tree):
        return str(tree.dtype), tuple(tree.shape), tree.numpy().tobytes()
    return tree


def test_kill_loop(train, corpus, tmp_path):
    begun = time.monotonic()
    assert forked(train, corpus, tmp_path / "whole")
    whole = result(tmp_path / "whole")
    took = time.monotonic() - begun
    # From a fork to the kill: time enough for what comes after training.
    longest = max(3.0, took / 2)
    generator = random.Random(0)
    kills = writing = number = 0
    while kills < KILLS:
        number += 1
        output, steps = tmp_path / f"killed{number}", 0
        while not forked(
            train, corpus, output, generator.uniform(0.05, longest)
        ):
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
