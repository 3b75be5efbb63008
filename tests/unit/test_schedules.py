"""Schedules: values at steps worked out by hand, and no state."""

import math

import pytest

from amsincnet_sb.nnet.schedules import CosineSchedule, LinearRamp

COSINE = CosineSchedule(2.0, total_steps=110, warmup_steps=10, final=0.5)


@pytest.mark.parametrize(
    "step, value",
    [
        (0, 0.2),
        (4, 1.0),
        (9, 2.0),
        (10, 2.0),
        (35, 0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2),  # a quarter of pi
        (60, 1.25),  # half way
        (85, 0.5 + 1.5 * (1 - math.sqrt(0.5)) / 2),
        (110, 0.5),
        (10**9, 0.5),
    ],
)
def test_cosine(step, value):
    assert COSINE(step) == pytest.approx(value, rel=1e-12)


def test_cosine_at_its_limits():
    constant = CosineSchedule(0.001, total_steps=100)
    assert {constant(step) for step in (0, 1, 50, 100, 1000)} == {0.001}
    short = CosineSchedule(1.0, total_steps=5, warmup_steps=10, final=0.0)
    assert [short(step) for step in (4, 10, 11)] == [0.5, 1.0, 0.0]


def test_ramp():
    ramp, values = LinearRamp(0.4, ramp_steps=4), [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]
    assert [ramp(step) for step in range(6)] == pytest.approx(values, abs=1e-15)
    assert LinearRamp(0.4)(99) == 0.4
