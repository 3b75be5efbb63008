"""Several ranks train together, and go on where they stopped."""

import json
import re
import time
from contextlib import contextmanager

import pytest
import torch
from recipe_process import free_port, start, start_two

from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.training.signals import STOPPED

HPARAMS = "am_sincnet_m005.yaml"
COMMON = {
    "batches_per_epoch": 4,
    "ckpt_interval_steps": 1,
    "distributed_backend": "gloo",
    "device": "cpu",
}
ONE = {**COMMON, "batch_size": 8}
TWO = {**COMMON, "batch_size": 4}
# Where nothing is random and BatchNorm stays in evaluation mode, two ranks
# compute what one process does with the joint batch.
STILL = {
    "dropout": 0,
    "equalizer_std_db": 0,
    "mixture_probability": 0,
    "lr": 0.0001,  # Adam amplifies the rounding of gradients that are almost 0
}
# Weights as they are at the start.
START = {"lr": 1e-30, "lr_final": 0, "number_of_epochs": 1}

# Runs of the recipe one after another in one rank, as torchrun starts it;
# importing everything takes longer than a run.
RUNS = """
import json, os, signal, sys, time
sys.path.insert(0, os.getcwd())
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
train_mode = torch.nn.BatchNorm1d.train
rank = int(os.environ["RANK"])
for number, run in enumerate(json.load(sys.stdin)):
    os.environ["MASTER_PORT"] = run["port"]
    sys.argv = ["train.py", *run["arguments"]]

    def signalled(self, batch, should_step):
        if [rank, self.optimizer_step] == run["signal"]:
            os.kill(os.getpid(), signal.SIGTERM)
        start(self, batch, should_step)

    train.SpeakerBrain.on_fit_batch_start = signalled
    torch.nn.BatchNorm1d.train = (
        (lambda norm, mode=True: train_mode(norm, False))
        if run["still"]
        else train_mode
    )
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


@contextmanager
def still_batchnorm():
    train_mode = torch.nn.BatchNorm1d.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.BatchNorm1d,
            "train",
            lambda norm, mode=True: train_mode(norm, False),
        )
        yield


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "results"
    with still_batchnorm():
        return recipe(HPARAMS, output, **ONE, **STILL)


@pytest.fixture(scope="module")
def two(recipe, one, tmp_path_factory):
    """All runs on two ranks: results, statuses by run, output by rank."""
    base = tmp_path_factory.mktemp("two")
    # A model that knows two of the four.
    network, classifier, config = read_pretrained(one)
    names = [*config["speakers"][:2], "nobody", "else"]
    write_pretrained(base / "model", network, classifier, names)
    runs = [
        {
            "arguments": recipe.arguments(HPARAMS, base / name, **TWO, **more),
            "signal": signal,
            "still": more is STILL,
            "port": free_port(),
        }
        for name, signal, more in (
            ("whole", None, {}),
            ("stopped", [1, 6], {}),  # (rank, step) of a SIGTERM
            ("stopped", None, {}),
            ("joint", None, STILL),
            ("fewer", [0, 3], STILL),
            ("own", None, {"validation_sentences": 1}),
            ("refused", None, {"data_folder": base / "nothing"}),
            ("refused", None, {"sync_batchnorm": "True"}),
            ("started", None, START | {"start_from": base / "model"}),
            ("refused", None, {"start_from": base / "nothing"}),
            ("sharp", None, {"sharpness_radius": 0.05}),
        )
    ]
    ranks = start_two("-c", RUNS)
    for process in ranks:
        process.stdin.write(json.dumps(runs))
        process.stdin.close()
    texts = [process.stdout.read() for process in ranks]
    assert [p.wait(60) for p in ranks] == [0, 0], "\n\n".join(texts)
    statuses = [re.findall(r"^STATUS (\d+)", t, re.M) for t in texts]
    return base, [list(map(int, s)) for s in zip(*statuses)], texts


def assert_close(recipe, output, expected):
    """The same curve; all errors of the training chunks are equal."""
    ours, theirs = recipe.metrics(output), recipe.metrics(expected)
    for a, b in zip(ours, theirs, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["train_frame_error"] == b["train_frame_error"]


def test_two_ranks_train_as_one_process(recipe, one, two):
    base, statuses, _ = two
    assert statuses[0] == statuses[3] == [0, 0]
    assert_close(recipe, base / "joint", one)


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
    assert statuses[4] == [STOPPED, STOPPED]
    with still_batchnorm():
        recipe(HPARAMS, base / "fewer", **ONE, **STILL)
    assert_close(recipe, base / "fewer", one)


def test_statistics_of_each_rank_alone(recipe, two):
    """Evaluated together or by one process: exactly the same errors."""
    base, statuses, _ = two
    assert statuses[5] == [0, 0]
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
    assert statuses[6] == [2, 2]
    assert "nothing" in texts[0]
    assert statuses[9] == [2, 2]
    told = [text.count("Error: ") for text in texts]
    assert told == [3, 0]
    assert statuses[7] == [2, 2]
    assert "SyncBatchNorm needs GPUs" in texts[0]


def test_ranks_start_from_a_model_as_one_process_does(recipe, two, tmp_path):
    """With class vectors by name, and new ones from all ranks' chunks."""
    base, statuses, _ = two
    assert statuses[8] == [0, 0]
    options = {**ONE, **START, "start_from": base / "model"}
    recipe(HPARAMS, tmp_path / "results", **options)
    ours, theirs, old = (
        read_pretrained(folder)[:2]
        for folder in (base / "started", tmp_path / "results", base / "model")
    )
    vectors = [classifier.weight for _, classifier in (ours, theirs, old)]
    torch.testing.assert_close(vectors[0], vectors[1])
    torch.testing.assert_close(vectors[0][:2], vectors[2][:2])
    assert not torch.allclose(vectors[0][2:], vectors[2][2:])
    for a, b in zip(ours[0].parameters(), old[0].parameters()):
        torch.testing.assert_close(a, b)


def test_ranks_climb_apart(recipe, two):
    base, statuses, _ = two
    assert statuses[10] == [0, 0]
    assert recipe.state(base / "sharp") != recipe.state(base / "whole")


def test_two_nodes(recipe, two, tmp_path):
    """Two agents, each with one rank, that meet at an address."""
    base, _, _ = two
    output, port = tmp_path / "results", free_port()
    arguments = recipe.arguments(HPARAMS, output, **TWO)
    agents = []
    for node in range(2):
        command = ["-m", "torch.distributed.run", "--nnodes=2"]
        command += ["--nproc_per_node=1", f"--node_rank={node}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        command += ["train.py", *arguments]
        agents.append(start(*command))
        time.sleep(0.2)
    for agent in agents:
        text, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, text
    assert recipe.state(output) == recipe.state(base / "whole")
    assert recipe.metrics(output) == recipe.metrics(base / "whole")
