"""What is computed in which precision."""

import torch

__all__ = ["arithmetic", "product_dtype", "sum_dtype"]


def product_dtype(x):
    """Precision of products: autocast's where that is on.

    Arguments
    ---------
    x : torch.Tensor
        What is multiplied.

    Returns
    -------
    torch.dtype
    """
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    # The range of float16 is too small for gradients without loss scaling.
    if dtype == torch.float16 and torch.is_grad_enabled():
        return torch.bfloat16
    return dtype


def sum_dtype(x):
    """Precision of sums.

    Arguments
    ---------
    x : torch.Tensor
        What is added up.

    Returns
    -------
    torch.dtype
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def arithmetic(x):
    """What Triton is told about both.

    Arguments
    ---------
    x : torch.Tensor
        What is multiplied.

    Returns
    -------
    accumulator : triton.language.dtype
        Of sums.
    precision : str
        How float32 inputs are multiplied.
    """
    import triton.language as tl

    if x.dtype == torch.float64:
        return tl.float64, "ieee"
    exact = torch.get_float32_matmul_precision() == "highest"
    return tl.float32, "tf32x3" if exact else "tf32"
