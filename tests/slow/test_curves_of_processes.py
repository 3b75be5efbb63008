"""With the same joint batch, several processes learn as fast as one.

With statistics of the joint batch the curves differ by no more than those of
other seeds. Where each process normalises by its own batch, of 16 here, the
loss in training is a little higher: smaller batches have noisier statistics.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

from demo_corpus import generate_demo_corpus

RECIPE = Path(__file__).parents[2] / "recipes" / "TIMIT" / "speaker_id"
SEEDS = 1234, 1235, 1236
OPTIONS = {
    "window": 1600,
    "hop": 800,
    "sinc_channels": 16,
    "sinc_kernel_size": 51,
    "tdnn_channels": "[16,16]",
    "tdnn_kernel_sizes": "[5,3]",
    "tdnn_strides": "[3,1]",
    "fc_neurons": "[32,32]",
    "embedding_size": 32,
    "batches_per_epoch": 100,
    "number_of_epochs": 4,
    "valid_interval": 1,
    "device": "cpu",
    "distributed_backend": "gloo",
}


def curve(corpus, output, processes, seed, synchronized=True):
    """Training loss of each epoch."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run"]
        command += [f"--nproc_per_node={processes}", f"--master_port={port}"]
    command += ["train.py", "hparams/am_sincnet_m005.yaml"]
    options = {
        **OPTIONS,
        "data_folder": corpus,
        "output_folder": output,
        "batch_size": 32 // processes,
        "seed": seed,
        "sync_batchnorm": synchronized,
    }
    ended = subprocess.run(
        command + [f"--{key}={value}" for key, value in options.items()],
        cwd=RECIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def test_curves(tmp_path):
    corpus = generate_demo_corpus(
        tmp_path / "TIMIT", speakers=6, progress=False
    )
    curves = {
        kind: [
            curve(corpus, tmp_path / f"{kind}-{seed}", processes, seed, joint)
            for seed in SEEDS
        ]
        for kind, processes, joint in (
            ("one process", 1, True),
            ("two", 2, True),
            ("two, statistics of their own", 2, False),
        )
    }
    print()
    for kind, several in curves.items():
        print(kind, [[round(x, 3) for x in one] for one in several])
    one, two, own = curves.values()
    for others, allowed in ((two, 0.01), (own, 0.05)):
        for ones, twos in zip(zip(*one), zip(*others)):
            spread = max(statistics.stdev(ones), statistics.stdev(twos))
            off = abs(statistics.mean(ones) - statistics.mean(twos))
            assert off < 3 * spread + allowed * statistics.mean(ones)
