"""Ten thousand broken files for each reader."""

import os
import subprocess
import sys
from pathlib import Path

CASES = 10_000
FUZZ = Path(__file__).parents[1] / "unit" / "test_fuzz.py"


def test_many_cases():
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(FUZZ)]
        + ["--hypothesis-show-statistics", "-W", "ignore"],
        cwd=FUZZ.parents[2],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FUZZ_CASES": str(CASES),
        },
        capture_output=True,
        text=True,
    )
    lines = ended.stdout.splitlines()
    print()
    for name, count in zip(
        [line for line in lines if line.endswith(":") and "::" in line],
        [line for line in lines if "passing test cases" in line]
        or [line for line in lines if "passing examples" in line],
    ):
        print(name, count.strip())
    assert ended.returncode == 0, ended.stdout
