"""The TIMIT recipe, for tests and benchmarks: how to start it, what it leaves."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "TIMIT" / "speaker_id"
sys.path[:0] = [str(ROOT), str(RECIPE), str(RECIPE.parent)]

from demo_corpus import generate_demo_corpus  # noqa: E402

from amsincnet_sb.training.metrics_log import MetricsLog  # noqa: E402

# Options with which a step takes milliseconds on a CPU: of any network, and
# of sinc_tdnn.yaml.
TINY = {
    "window": 1600,
    "hop": 800,
    "fc_neurons": "[8,8]",
    "embedding_size": 8,
}
TDNN = {
    "sinc_channels": 4,
    "sinc_kernel_size": 51,
    "tdnn_channels": "[4,4]",
    "tdnn_kernel_sizes": "[5,3]",
    "tdnn_strides": "[3,1]",
}
SMALL = {**TINY, **TDNN}
# A second for a run; one epoch is three steps.
RUN = {
    "batch_size": 8,
    "batches_per_epoch": 3,
    "number_of_epochs": 2,
    "valid_interval": 1,
    "windows_per_batch": 256,
    "precision": "fp32",  # on every CPU
}


def corpus(folder, speakers):
    """Generated speech in TIMIT's layout; returns its folder."""
    return generate_demo_corpus(Path(folder) / "TIMIT", speakers=speakers)


def arguments(hparams, **options):
    """The command behind "python"."""
    pairs = [f"--{key}={value}" for key, value in options.items()]
    return ["train.py", f"hparams/{hparams}", *pairs]


def environment(**more):
    """That of this process, with this checkout first on the path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def start(*command, cwd=RECIPE, **variables):
    """A Python process of one thread, whose output is one text."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment(**{"OMP_NUM_THREADS": "1", **variables}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def start_two(*command):
    """The two ranks of a group, as torchrun starts them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        start(*command, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", **common)
        for rank in ("0", "1")
    ]


def records(output):
    """The evaluations of a run."""
    return MetricsLog(output / "metrics.jsonl").records()


def metrics(output):
    """The same without what a clock says."""
    found = records(output)
    for record in found:
        assert record.pop("seconds") >= 0
    return found


def state(output):
    """All that the only checkpoint holds, number by number, by name."""
    (folder,) = (output / "save").glob("CKPT*")
    found = {}
    for path in folder.glob("*.ckpt"):
        try:
            content = torch.load(path, "cpu", weights_only=True)
        except Exception:  # a text
            content = path.read_text(encoding="utf-8")
        found[path.name] = content
    return _flatten(found)


def _flatten(tree, prefix=""):
    """Nested containers as one mapping; tensors as dtype and bytes."""
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        flat = {}
        for key, value in tree.items():
            flat.update(_flatten(value, f"{prefix}/{key}"))
        return flat
    if torch.is_tensor(tree):
        return {prefix: (tree.dtype, tree.shape, tree.numpy().tobytes())}
    return {prefix: tree}
