"""Ten thousand broken files for each reader."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
FUZZ = Path(__file__).parents[1] / "unit" / "test_fuzz.py"


def test_many_cases():
    environment = {"FUZZ_CASES": "10000", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", FUZZ],
        cwd=FUZZ.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
