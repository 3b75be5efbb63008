"""What a step changed beside the parameters goes back, or stays.

The kernel for GPUs runs in Triton's interpreter, too, in a process of its own;
this file is that process's program.
"""

import pytest
import torch
from interpreter import run_interpreted

from amsincnet_sb.training.guard import StepGuard

on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)


def tensors(device):
    """Of all types and sizes, below, at and above what a program copies."""
    made = [
        torch.tensor(7),
        torch.arange(5, dtype=torch.float64),
        torch.zeros(0),
        torch.randn(1024),
        torch.tensor([True, False, True]),
        torch.randn(33, 100).bfloat16(),
        torch.arange(9000, dtype=torch.uint8),
    ]
    return [tensor.to(device) for tensor in made]


def change(made):
    for tensor in made:
        if tensor.dtype == torch.bool:
            tensor.logical_not_()
        else:
            tensor.add_(1)


def check(device, fast):
    """Nothing else is written; what is kept is what was taken last."""
    made = tensors(device)
    apart = made[6][:8]  # of which a part is not guarded
    guard = StepGuard([*made[:6], made[6][8:]])
    assert (guard._fast is not None) == fast
    for finite in (True, False, True):
        guard.take()
        before = [tensor.clone() for tensor in made]
        change(made)
        after = [tensor.clone() for tensor in made]
        guard.restore_unless(torch.tensor(finite, device=device))
        for tensor, old, new in zip(made[:6], before, after):
            assert torch.equal(tensor, new if finite else old)
        assert torch.equal(made[6][8:], (after if finite else before)[6][8:])
        assert torch.equal(apart, after[6][:8])
    change(made)
    guard.restore()
    for tensor, old in zip(made[:6], before):
        assert torch.equal(tensor, old)


def test_on_a_cpu():
    check("cpu", fast=False)


def test_without_tensors():
    guard = StepGuard([torch.zeros(0)])
    guard.take()
    guard.restore_unless(torch.tensor(False))
    guard.restore()


def test_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(__file__)


@on_gpu
def test_on_gpu():
    check("cuda", fast=True)


if __name__ == "__main__":
    from amsincnet_sb import kernels
    from amsincnet_sb.kernels import cuda

    kernels._cuda = cuda
    check("cpu", fast=True)
