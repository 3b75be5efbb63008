"""Whether all numbers of many tensors are finite."""

import math

import torch

from amsincnet_sb.kernels.cuda.launch import kernels
from amsincnet_sb.kernels.cuda.support import supports

__all__ = ["finiteness"]

# From so many numbers on a kernel of its own pays.
_LARGE = 2**14
_BLOCK = 4096


def finiteness(tensors):
    """Numbers that are finite if, and only if, all of some tensors are.

    Nothing waits for a GPU, where tensors of many numbers are looked at by a
    kernel that reads as fast as the memory gives.

    Arguments
    ---------
    tensors : list of torch.Tensor
        Gradients, on one device; at least one.

    Returns
    -------
    list of torch.Tensor
        float32 scalars.

    Example
    -------
    >>> values = finiteness([torch.ones(3), torch.tensor([1.0, float("nan")])])
    >>> [bool(value.isfinite()) for value in values]
    [True, False]
    """
    large = [
        x
        for x in tensors
        if x.numel() >= _LARGE and x.is_contiguous() and supports(x)
    ]
    small = [x for x in tensors if all(x is not other for other in large)]
    found = []
    if large:
        flag = torch.zeros((), device=large[0].device)
        for x in large:
            size = x.numel()
            kernels().mark_nonfinite[(-(-size // _BLOCK),)](
                x, flag, size, BLOCK=_BLOCK, num_warps=8
            )
        found.append(flag)
    if small and small[0].device.type == "cpu":
        found += [_sum_or_largest(x) for x in small]
    elif small:
        found += torch._foreach_norm(small, math.inf)
    return [value.float() for value in found]


def _sum_or_largest(x):
    """A sum takes a processor a fifth of the time, but may overflow."""
    total = x.sum(dtype=torch.float32)
    return total if total.isfinite() else torch.linalg.vector_norm(x, math.inf)
