"""The TIMIT recipe as a process of its own, for what times or stops it."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "TIMIT" / "speaker_id"
sys.path[:0] = [str(ROOT), str(RECIPE.parent)]

from amsincnet_sb.training.metrics_log import History  # noqa: E402


def environment(**more):
    """Ours, in which this checkout is found."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **more}


def records(output):
    """The evaluations of a run."""
    return History(output / "metrics.jsonl").records()
