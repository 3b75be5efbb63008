"""Several processes train as one would, and go on where they stopped."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from amsincnet_sb.training.signals import STOPPED

HPARAMS = "am_sincnet_m005.yaml"
COMMON = {
    "dropout": 0,
    "equalizer_std_db": 0,
    "mixture_probability": 0,
    "band_mask": 0,
    # A bias before a BatchNorm has a gradient of rounding noise, of which Adam
    # takes the sign: steps are small, because running means follow slowly.
    "lr": 0.0001,
    "batches_per_epoch": 4,
    "ckpt_interval_steps": 1,
    "distributed_backend": "gloo",
    "device": "cpu",
}
ONE = {**COMMON, "batch_size": 8}
TWO = {**COMMON, "batch_size": 4}

# Runs of the recipe one after another in one process of several, as torchrun
# starts it; importing everything takes longer than a run.
RUNS = """
import json, os, signal, sys, time
sys.path.insert(0, os.getcwd())
os.environ["LOCAL_RANK"] = os.environ["RANK"]
import torch
import train
from speechbrain.dataio.encoder import CategoricalEncoder
from amsincnet_sb.utils.errors import exit_on_input_error


def slow_save(path, lab2ind, extras, save=CategoricalEncoder._save_literal):
    open(path, "w").close()  # which nobody must read now
    time.sleep(0.5)
    save(path, lab2ind, extras)


CategoricalEncoder._save_literal = staticmethod(slow_save)
start = train.SpeakerBrain.on_fit_batch_start
rank = int(os.environ["RANK"])
for number, run in enumerate(json.load(sys.stdin)):
    os.environ["MASTER_PORT"] = str(run["port"])
    sys.argv = ["train.py", *run["arguments"]]

    def signalled(self, batch, should_step):
        if [rank, self.optimizer_step] == run["signal"]:
            os.kill(os.getpid(), signal.SIGTERM)
        start(self, batch, should_step)

    train.SpeakerBrain.on_fit_batch_start = signalled
    status = 0
    try:
        with exit_on_input_error():
            train.main()
    except SystemExit as ended:
        status = ended.code
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    print("STATUS", status, flush=True)
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment(**variables):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        **variables,
    }


class Processes:
    """Two processes on this machine that do the same runs."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.runs = []

    def add(self, output, signal=None, **options):
        arguments = self.recipe.arguments(HPARAMS, output, **TWO, **options)
        run = {"arguments": arguments, "signal": signal, "port": free_port()}
        self.runs.append(run)

    def go(self):
        """Statuses of each run; what the processes wrote."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RUNS],
                cwd=self.recipe.folder,
                env=environment(
                    RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        for process in processes:
            process.stdin.write(json.dumps(self.runs))
            process.stdin.close()
        texts = [process.stdout.read() for process in processes]
        status = [process.wait(60) for process in processes]
        assert status == [0, 0], "\n\n".join(texts)
        statuses = [re.findall(r"^STATUS (\d+)", t, re.M) for t in texts]
        return [list(map(int, s)) for s in zip(*statuses)], texts


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory):
    """All runs on two processes that the tests below look at."""
    base = tmp_path_factory.mktemp("two")
    processes = Processes(recipe)
    synchronized = {"sync_batchnorm": "True"}
    processes.add(base / "whole", **synchronized)
    # A signal that one of them gets stops both.
    processes.add(base / "stopped", signal=[1, 6], **synchronized)
    processes.add(base / "stopped", **synchronized)
    processes.add(base / "fewer", signal=[0, 3], **synchronized)
    processes.add(base / "own", validation_sentences=1)
    processes.add(base / "refused", data_folder=base / "nothing")
    statuses, texts = processes.go()
    return base, statuses, texts


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "results"
    return recipe(HPARAMS, output, **ONE)


def assert_close(recipe, output, expected, **tolerance):
    """The same curve; all errors of the training windows are equal."""
    for ours, theirs in zip(recipe.metrics(output), recipe.metrics(expected)):
        assert ours["train_loss"] == pytest.approx(
            theirs["train_loss"], **tolerance
        )
        assert ours["train_frame_error"] == theirs["train_frame_error"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_two_processes_train_as_one(recipe, one, two):
    base, statuses, _ = two
    assert statuses[0] == [0, 0]
    assert_close(recipe, base / "whole", one, rel=1e-5)


def test_a_signal_to_one_stops_both_and_they_go_on(recipe, two):
    base, statuses, texts = two
    assert statuses[1] == [STOPPED, STOPPED]
    assert "step 7) by a signal to another process" in texts[0]
    assert statuses[2] == [0, 0]
    whole, stopped = base / "whole", base / "stopped"
    assert recipe.state(stopped) == recipe.state(whole)
    assert recipe.metrics(stopped) == recipe.metrics(whole)
    assert recipe.sentences(stopped) == recipe.sentences(whole)


def test_one_process_goes_on_from_two(recipe, one, two):
    base, statuses, _ = two
    assert statuses[3] == [STOPPED, STOPPED]
    recipe(HPARAMS, base / "fewer", **ONE)
    assert_close(recipe, base / "fewer", one, rel=1e-5)


def test_statistics_of_each_process_alone(recipe, two):
    """Evaluated together or by one process: exactly the same errors."""
    base, statuses, _ = two
    assert statuses[4] == [0, 0]
    output = base / "own"
    metrics, sentences = recipe.metrics(output), recipe.sentences(output)
    assert [record["split"] for record in metrics] == ["valid", "valid", "test"]
    (output / "sentences.csv").unlink()
    recipe(HPARAMS, output, test_only=True, validation_sentences=1, **ONE)
    again = recipe.metrics(output)
    assert recipe.sentences(output) == sentences
    for ours, theirs in zip(metrics, again):
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-12)
        assert ours == theirs


def test_a_users_error_is_told_once(two):
    base, statuses, texts = two
    assert statuses[5] == [2, 2]
    assert "nothing" in texts[0]
    told = [text.count("Error: ") for text in texts]
    assert told == [1, 0]


def test_two_nodes(recipe, two, tmp_path):
    """Two agents, each with one process, that meet at an address."""
    base, _, _ = two
    output, port = tmp_path / "results", free_port()
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes=2", "--nproc_per_node=1", f"--node_rank={node}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        command += ["train.py"]
        command += recipe.arguments(
            HPARAMS, output, sync_batchnorm="True", **TWO
        )
        agents.append(
            subprocess.Popen(
                command,
                cwd=recipe.folder,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        time.sleep(0.2)
    for agent in agents:
        text, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, text
    assert recipe.state(output) == recipe.state(base / "whole")
    assert recipe.metrics(output) == recipe.metrics(base / "whole")
