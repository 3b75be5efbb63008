"""Ten thousand broken files for each reader."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

CASES = int(os.environ.get("FUZZ_CASES", 10_000))
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
    assert ended.returncode == 0, ended.stdout
    counts = Counter()
    for line in ended.stdout.splitlines():
        if "::" in line:
            reader = line.split("::")[1].rstrip(":")
        elif found := re.search(r"(\d+) passing", line):
            counts[reader] += int(found[1])
    print("\ncases:", dict(counts))
    assert min(counts.values()) >= CASES
