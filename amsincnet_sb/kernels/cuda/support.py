"""Where the kernels run."""

import importlib.util
import os

import torch

__all__ = ["supports"]

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def supports(x):
    """Whether the kernels can run where a tensor lies.

    Arguments
    ---------
    x : torch.Tensor
        Any tensor of the computation.

    Returns
    -------
    bool
        True on a CUDA device of compute capability 8.0 or later with Triton
        installed, and in Triton's interpreter.

    Example
    -------
    >>> supports(torch.zeros(1))
    False
    """
    if not _HAS_TRITON or _INTERPRETED:
        return _HAS_TRITON
    return (
        x.is_cuda
        and x.dtype in (torch.float32, torch.bfloat16)
        and _capable(x.device.index)
    )


@torch.compiler.assume_constant_result
def _capable(index):
    """Whether a CUDA device's tensor cores know bfloat16 and TF32."""
    return (
        torch.cuda.is_available()
        and torch.version.hip is None
        and torch.cuda.get_device_capability(index) >= (8, 0)
    )
