"""Settings of all tests."""

import os
import sys
from pathlib import Path

# One thread a test process: the networks are tiny.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import speechbrain  # noqa: E402, F401
from speechbrain.utils.importutils import LazyModule  # noqa: E402

# hypothesis asks every imported module for its file, and SpeechBrain's lazy
# modules answer by importing packages that are not installed.
LazyModule.__file__ = None

# The prepare script is imported by its recipe's own folder, and
# tests/reference.py by the tests.
sys.path.insert(0, str(Path(__file__).parent / "recipes" / "TIMIT"))
sys.path.insert(0, str(Path(__file__).parent / "tests"))
