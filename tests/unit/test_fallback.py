"""A compiler that fails: tried again, then done without and said so."""

import logging

import pytest
import torch

from amsincnet_sb.training.captured_step import CapturedStep
from amsincnet_sb.training.metrics_log import MetricsLog


@pytest.mark.parametrize("failures, uncompiled", [(1, False), (2, True)])
def test_a_failing_compiler_is_named(failures, uncompiled, caplog, tmp_path):
    layer = torch.nn.Linear(3, 1)
    step = CapturedStep(
        lambda x: layer(x).square().mean(),
        torch.optim.SGD(layer.parameters(), lr=0.1),
    )
    step._inputs = [torch.ones(2, 3)]
    left = failures

    def compiled():
        nonlocal left
        if left:
            left -= 1
            raise FileNotFoundError("fxgraph/ab: no such file")
        return step._plain_forward()

    # As on a GPU, where the compiler is asked.
    step._compile, step._forward = True, compiled
    before = layer.weight.clone()
    with caplog.at_level(logging.WARNING):
        step._try_eager()
    assert not torch.equal(layer.weight, before)
    assert step._compile is not uncompiled
    warned = [record.message for record in caplog.records]
    assert warned == [step.fallback] * uncompiled
    assert ("no such file" in step.fallback) is uncompiled
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(step=1, fallback=step.fallback)
    assert log.records() == [{"step": 1, "fallback": step.fallback}]
