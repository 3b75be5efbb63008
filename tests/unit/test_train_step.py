"""The benchmark of a training step."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import train_step  # noqa: E402


@pytest.mark.parametrize("captured", [False, True])
def test_steps_of_both_kinds_are_timed(captured):
    options = {"device": "cpu", "network": "sinc_tdnn", "optimizer": "adamw"}
    args = argparse.Namespace(**options)
    step = train_step.make_step(args, True, "fp32", captured, False)
    times = train_step.timed(step, "cpu", turns=2, steps=1)
    assert len(times) == 2 and min(times) > 0
