"""The TIMIT recipe, for tests and benchmarks that time, stop or kill it."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "TIMIT" / "speaker_id"
sys.path[:0] = [str(ROOT), str(RECIPE), str(RECIPE.parent)]

from demo_corpus import generate_demo_corpus  # noqa: E402

from amsincnet_sb.training.metrics_log import MetricsLog  # noqa: E402

__all__ = ["RECIPE", "SMALL", "arguments", "corpus", "environment", "records"]

# Options with which a step takes milliseconds on a CPU.
SMALL = {
    "window": 1600,
    "hop": 800,
    "sinc_channels": 4,
    "sinc_kernel_size": 51,
    "tdnn_channels": "[4,4]",
    "tdnn_kernel_sizes": "[5,3]",
    "tdnn_strides": "[3,1]",
    "fc_neurons": "[8,8]",
    "embedding_size": 8,
}


def corpus(folder, speakers):
    """Generated speech in TIMIT's layout; returns its folder."""
    return generate_demo_corpus(
        Path(folder) / "TIMIT", speakers=speakers, progress=False
    )


def arguments(hparams, **options):
    """The command behind "python"."""
    pairs = [f"--{key}={value}" for key, value in options.items()]
    return ["train.py", f"hparams/{hparams}", *pairs]


def environment(**more):
    """That of this process, with this checkout first on the path."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **more}


def records(output):
    """The evaluations of a run."""
    return MetricsLog(output / "metrics.jsonl").records()
