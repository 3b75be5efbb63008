"""Where the kernels run, and in which precision."""

import importlib.util
import os

import torch

__all__ = [
    "matmul_dtype",
    "sum_dtype",
    "supports",
    "triton_arithmetic",
    "wide_product",
]

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_HAS_WIDE_MM = "dtype" in torch.ops.aten.mm.overloads()  # torch 2.8


def supports(x):
    """Whether the kernels can run on the device of a tensor.

    They can on a CUDA device of compute capability 8.0 or later with Triton
    installed, and anywhere in Triton's interpreter.
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


def matmul_dtype(x):
    """Precision of the matmuls of ``x``: autocast's where that is on."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    # The range of float16 is too small for gradients without loss scaling.
    if dtype == torch.float16 and torch.is_grad_enabled():
        return torch.bfloat16
    return dtype


def sum_dtype(x):
    """Precision of sums over values of ``x``."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide_product(a, b):
    """The product of two matrices of a half-precision type, in float32.

    Others keep their type. Before torch 2.8 GPUs round it first.
    """
    if a.dtype not in (torch.float16, torch.bfloat16):
        return a @ b
    if not a.is_cuda:
        return a.float() @ b.float()
    if _HAS_WIDE_MM:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def triton_arithmetic(x):
    """For Triton: the type of sums, and how float32 is multiplied."""
    import triton.language as tl

    if x.dtype == torch.float64:
        return tl.float64, "ieee"
    exact = torch.get_float32_matmul_precision() == "highest"
    return tl.float32, "tf32x3" if exact else "tf32"
