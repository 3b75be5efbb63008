"""With the same joint batch, several ranks learn as fast as one process.

Each rank normalises by its own batch, of 16 here, and the training loss is a
little higher: smaller batches have noisier statistics.
"""

import socket
import statistics
import subprocess
import sys

import recipe_process

SEEDS = 1234, 1235, 1236
OPTIONS = {
    **recipe_process.SMALL,
    "sinc_channels": 16,
    "tdnn_channels": "[16,16]",
    "fc_neurons": "[32,32]",
    "embedding_size": 32,
    "batches_per_epoch": 100,
    "number_of_epochs": 4,
    "valid_interval": 1,
    "device": "cpu",
    "distributed_backend": "gloo",
}


def curve(corpus, output, ranks, seed):
    """Training loss of each epoch."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run"]
        command += [f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += recipe_process.arguments(
        "sinc_tdnn.yaml",
        **OPTIONS,
        data_folder=corpus,
        output_folder=output,
        batch_size=32 // ranks,
        seed=seed,
    )
    ended = subprocess.run(
        command,
        cwd=recipe_process.RECIPE,
        env=recipe_process.environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [record["train_loss"] for record in recipe_process.records(output)]


def test_curves(tmp_path):
    corpus = recipe_process.corpus(tmp_path, speakers=6)
    one, two = (
        [curve(corpus, tmp_path / f"{n}-{seed}", n, seed) for seed in SEEDS]
        for n in (1, 2)
    )
    print("\none process", one, "\ntwo ranks", two)
    for ones, twos in zip(zip(*one), zip(*two)):
        spread = max(statistics.stdev(ones), statistics.stdev(twos))
        off = abs(statistics.mean(ones) - statistics.mean(twos))
        assert off < 3 * spread + 0.05 * statistics.mean(ones)
