"""Launches of kernels that several layers share, with fitting tile sizes.

The sizes were measured on H100 and H200. The kernels' modules need Triton and
are imported with the first launch.
"""

import torch

from amsincnet_sb.kernels.cuda.support import sum_dtype, triton_arithmetic

__all__ = [
    "grad_parts",
    "implicit_gemm",
    "implicit_gemm_grad",
    "plain_gemm",
    "power_of_2",
    "rearrange",
]


def power_of_2(n):
    """The smallest power of 2 that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def rearrange(
    source, out, sizes, strides, valid=None, into=None, parts=1, step=0
):
    """Permute, pad, cut in overlapping rows, convert, add up in one pass.

    Writes ``out``, of three ``sizes``, and returns it. ``strides`` are those
    of ``source`` that go with the sizes; ``valid`` the last two sizes of
    ``source`` where ``out`` is padded; ``into`` the strides of ``out`` where
    it is not contiguous in this order. ``parts`` of ``source`` are added up,
    ``step`` elements from one to the next.
    """
    from amsincnet_sb.kernels.cuda import triton_matmul

    n0, n1, n2 = sizes
    b1, b2 = min(32, power_of_2(n1)), min(32, power_of_2(n2))
    grid = (n0 * -(-n1 // b1) * -(-n2 // b2),)
    triton_matmul.rearrange[grid](
        source,
        out,
        *sizes,
        *(valid or sizes[1:]),
        *strides,
        *(into or (n1 * n2, n2, 1)),
        parts,
        step,
        ACC=triton_arithmetic(out)[0],
        B1=b1,
        B2=b2,
        num_warps=4,
    )
    return out


def implicit_gemm(
    a, w, out, rows, code=None, bias=None, slope=None, skip=-1, **shape
):
    """Overlapping rows of ``a`` times a matrix ``w``, max-pooled, into ``out``.

    ``code``, int8 and of the shape of ``out``, takes which of the pooled was
    largest. A bias, a LeakyReLU of some ``slope`` and a residual connection,
    from position ``skip`` of a row of ``a``, can follow. ``shape`` has the
    kernel's ``J``, ``SB``, ``SM``, ``SWK``, ``KK``, ``N``, and where they
    differ from those of a plain matmul the others.
    """
    from amsincnet_sb.kernels.cuda import triton_matmul

    plain = {"SQ": 0, "RK": shape["KK"], "SWR": 0, "SWG": 0, "SWN": 1}
    plain |= {"SWQ": 0, "CP": shape["N"], "POOL": 1, "ABS": False}
    shape = plain | shape
    acc, precision = triton_arithmetic(a)
    tiles = _gemm_tiles(
        shape["N"], shape["KK"], shape["POOL"], a.element_size()
    )
    grid = (-(-rows // tiles["BM"]) * -(-shape["N"] // tiles["BN"]),)
    triton_matmul.implicit_gemm[grid](
        a,
        w,
        bias,
        out,
        out if code is None else code,
        slope or 0.0,
        rows,
        BIAS=0 if bias is None else len(bias),
        RELU=slope is not None,
        SKIP=skip,
        ACC=acc,
        PRECISION=precision,
        **shape,
        **tiles,
    )


def _gemm_tiles(n, k, pool, itemsize):
    """Tile sizes, warps and pipeline stages of an implicit_gemm."""
    bn = min(128 if itemsize == 2 else 64, max(16, power_of_2(n)))
    small = pool == 3 or itemsize > 2
    bk = min(32 if small else 64, max(16, power_of_2(k)))
    wide = bn == 128 or itemsize > 2
    return {
        "BM": 128 if wide else 64,
        "BN": bn,
        "BK": bk,
        "num_warps": 8 if wide else 4,
        "num_stages": 3 if wide else 4,
    }


def plain_gemm(a, matrix, out, bias=None, slope=None, skip=-1, **rows):
    """:func:`implicit_gemm` with a matrix ``[k, n]``, without pooling."""
    size, n = matrix.shape
    implicit_gemm(
        a,
        matrix.contiguous(),
        out,
        out.numel() // n,
        bias=bias,
        slope=slope,
        skip=skip,
        SWK=n,
        KK=size,
        N=n,
        **rows,
    )


def implicit_gemm_grad(a, d, rows, **shape):
    """Gradient of the matrix of an :func:`implicit_gemm`.

    ``d`` is the gradient of the result, which has ``rows`` rows. Returns
    ``[parts, KK, N]``, to be added up.
    """
    from amsincnet_sb.kernels.cuda import triton_matmul

    acc, precision = triton_arithmetic(a)
    size, n = shape["KK"], shape["N"]
    tiles = _grad_tiles(n, size, a.element_size())
    count, parts, each = grad_parts(rows, size, n, a.element_size())
    out = torch.empty(parts, size, n, dtype=sum_dtype(a), device=a.device)
    triton_matmul.implicit_gemm_grad[(count, parts)](
        a, d, out, rows, each, ACC=acc, PRECISION=precision, **shape, **tiles
    )
    return out


def grad_parts(rows, size, n, itemsize):
    """How an :func:`implicit_gemm_grad` for a ``[size, n]`` matrix is divided.

    Returns the programs a part, the parts, and the rows a part.
    """
    tiles = _grad_tiles(n, size, itemsize)
    count = -(-size // tiles["BK"]) * -(-n // tiles["BN"])
    # About two programs a multiprocessor, whatever the shape; a constant, so
    # that the order of summation is the same on every device.
    parts = max(1, min(264 // count, rows // 512))
    each = -(-rows // (parts * tiles["BR"])) * tiles["BR"]
    return count, -(-rows // each), each


def _grad_tiles(n, k, itemsize):
    """Tile sizes, warps and pipeline stages of an implicit_gemm_grad."""
    if itemsize == 2 and n >= 512 and k >= 1024:  # enough for large tiles
        sizes = {"BR": 64, "BK": 256, "BN": 128}
        return sizes | {"num_warps": 8, "num_stages": 3}
    bn = min(128 if itemsize == 2 else 64, max(16, power_of_2(n)))
    bk = min(128 if n <= 64 else 64, max(16, power_of_2(k)))
    return {
        "BR": 64 if itemsize == 2 else 32,
        "BK": bk,
        "BN": bn,
        "num_warps": 4,
        "num_stages": 3,
    }
