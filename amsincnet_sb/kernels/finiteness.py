"""Whether all values of many tensors are finite."""

import math

import torch

from amsincnet_sb.kernels import cpu, kernels_for

__all__ = ["all_finite", "finiteness"]

# From so many values on a kernel of its own pays.
_LARGE = 2**14
_BLOCK = 4096


def finiteness(tensors):
    """Scalars that are finite if, and only if, all of some tensors are.

    The tensors, at least one, are on one device; the scalars are float32.
    Nothing waits for a GPU, where large tensors are read by a kernel that is
    as fast as the memory.

    Example
    -------
    >>> values = finiteness([torch.ones(3), torch.tensor([1.0, float("nan")])])
    >>> [bool(value.isfinite()) for value in values]
    [True, False]
    """
    large = [
        x
        for x in tensors
        if x.numel() >= _LARGE
        and x.is_contiguous()
        and kernels_for(x) not in (None, cpu)
    ]
    small = [x for x in tensors if all(x is not other for other in large)]
    found = [_marked(large)] if large else []
    if small and small[0].device.type == "cpu":
        found += [_sum_or_largest(x) for x in small]
    elif small:
        found += torch._foreach_norm(small, math.inf)
    return [value.float() for value in found]


def all_finite(values):
    """Whether no tensor of floats among some values is NaN or infinite.

    The values may be on several devices, each of which is waited for once.

    Example
    -------
    >>> all_finite([torch.ones(3), torch.tensor([7]), "text"])
    True
    """
    by_device = {}
    for x in values:
        if torch.is_tensor(x) and x.is_floating_point() and x.numel():
            by_device.setdefault(x.device, []).append(x.detach())
    return all(
        torch.stack(finiteness(tensors)).isfinite().all().item()
        for tensors in by_device.values()
    )


def _marked(tensors):
    """A scalar that is infinite if a value of contiguous tensors is not."""
    from amsincnet_sb.kernels.cuda import triton_reductions

    flag = torch.zeros((), device=tensors[0].device)
    for x in tensors:
        triton_reductions.mark_nonfinite[(-(-x.numel() // _BLOCK),)](
            x, flag, x.numel(), BLOCK=_BLOCK, num_warps=8
        )
    return flag


def _sum_or_largest(x):
    """A sum takes a CPU a fifth of the time, but may overflow."""
    total = x.sum(dtype=torch.float32)
    return total if total.isfinite() else torch.linalg.vector_norm(x, math.inf)
