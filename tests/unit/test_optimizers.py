"""RMSprop against torch's."""

import copy

import pytest
import torch

from amsincnet_sb.nnet import optimizers
from amsincnet_sb.nnet.optimizers import RMSprop

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="needs a CUDA device"
        ),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"centered": True},
        {"maximize": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_same_bits_and_same_state(options, device, monkeypatch):
    monkeypatch.setattr(optimizers, "_PART", 16)
    in_parts = []
    update = RMSprop._update

    def counted(self, *arguments):
        in_parts.append(1)
        update(self, *arguments)

    monkeypatch.setattr(RMSprop, "_update", counted)
    torch.manual_seed(0)
    weights = [torch.randn(9, 5), torch.randn(3), torch.randn(7, 6).t()]
    weights = [each.to(device) for each in [*weights, torch.randn(())]]
    ours = [each.detach().clone().requires_grad_() for each in weights]
    theirs = [each.detach().clone().requires_grad_() for each in weights]
    options = dict(lr=1e-2, alpha=0.95, eps=1e-8, **options)
    a, b = RMSprop(ours, **options), torch.optim.RMSprop(theirs, **options)
    for _ in range(3):
        for mine, other in zip(ours[:3], theirs):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        a.step()
        b.step()
        b.load_state_dict(copy.deepcopy(a.state_dict()))
    for mine, other in zip(ours, theirs):
        assert torch.equal(mine, other)
    simple = device == "cpu" and len(options) == 3 + ("weight_decay" in options)
    assert len(in_parts) == (9 if simple else 0)
    a.load_state_dict(b.state_dict())
    assert a.step(lambda: 3.0) == 3.0
