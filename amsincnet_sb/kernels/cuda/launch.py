"""Kernels that several layers share, with tile sizes that suit a problem.

The sizes were measured on H100 and H200.
"""

import torch

from amsincnet_sb.kernels.cuda.precision import arithmetic, sum_dtype

__all__ = [
    "grad_parts",
    "kernels",
    "plain_gemm",
    "power_of_2",
    "rearrange",
    "window_gemm",
    "window_grad",
]


def kernels():
    """The kernels' module, which needs Triton.

    Returns
    -------
    module
    """
    from amsincnet_sb.kernels.cuda import kernels

    return kernels


def power_of_2(n):
    """The next one.

    Arguments
    ---------
    n : int
        Positive.

    Returns
    -------
    int
        ``n`` or more.
    """
    return 1 << (n - 1).bit_length()


def rearrange(
    source, out, sizes, strides, valid=None, into=None, parts=1, step=0
):
    """Permute, pad, cut in windows, convert and add up, in one pass.

    Arguments
    ---------
    source : torch.Tensor
        Is read.
    out : torch.Tensor
        Is written.
    sizes : tuple of int
        Three, of what is written.
    strides : tuple of int
        Of the source.
    valid : tuple of int, optional
        The last two sizes of the source where ``out`` is padded.
    into : tuple of int, optional
        Strides of ``out`` where it is not contiguous in this order.
    parts : int
        Of the source, that are added up.
    step : int
        Elements from one part to the next.

    Returns
    -------
    torch.Tensor
        ``out``.
    """
    n0, n1, n2 = sizes
    b1, b2 = min(32, power_of_2(n1)), min(32, power_of_2(n2))
    grid = (n0 * -(-n1 // b1) * -(-n2 // b2),)
    kernels().rearrange[grid](
        source,
        out,
        *sizes,
        *(valid or sizes[1:]),
        *strides,
        *(into or (n1 * n2, n2, 1)),
        parts,
        step,
        ACC=arithmetic(out)[0],
        B1=b1,
        B2=b2,
        num_warps=4,
    )
    return out


def window_gemm(
    a, w, out, rows, code=None, bias=None, slope=None, skip=-1, **shape
):
    """Overlapping rows of ``a`` times a matrix, max-pooled.

    Arguments
    ---------
    a : torch.Tensor
        Of the rows.
    w : torch.Tensor
        The matrix, of the same type.
    out : torch.Tensor
        Is written.
    rows : int
        Of the result.
    code : torch.Tensor, optional
        int8, of the shape of ``out``: takes which of the pooled was largest.
    bias : torch.Tensor, optional
        Added to each row.
    slope : float, optional
        Of a LeakyReLU that follows.
    skip : int
        Where in a row of ``a`` that begins which is added last, or -1.
    **shape : int
        ``J``, ``SB``, ``SM``, ``SWK``, ``KK``, ``N``, and where they differ
        from those of a plain product the others; see
        :func:`amsincnet_sb.kernels.cuda.kernels.window_gemm`.
    """
    plain = {"SQ": 0, "RK": shape["KK"], "SWR": 0, "SWG": 0, "SWN": 1}
    plain |= {"SWQ": 0, "CP": shape["N"], "POOL": 1, "ABS": False}
    shape = plain | shape
    acc, precision = arithmetic(a)
    tiles = _gemm_tiles(
        shape["N"], shape["KK"], shape["POOL"], a.element_size()
    )
    grid = (-(-rows // tiles["BM"]) * -(-shape["N"] // tiles["BN"]),)
    kernels().window_gemm[grid](
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
    """Tile sizes, warps and pipeline stages of a window_gemm."""
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
    """Overlapping rows of ``a`` times a ``[k, n]`` matrix.

    Arguments
    ---------
    a, out, bias, slope, skip
        See :func:`window_gemm`.
    matrix : torch.Tensor
        ``[k, n]``.
    **rows : int
        ``J``, ``SB`` and ``SM``.
    """
    size, n = matrix.shape
    window_gemm(
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


def window_grad(a, d, rows, **shape):
    """Gradient of the matrix that overlapping rows of ``a`` are times.

    Arguments
    ---------
    a : torch.Tensor
        Of the rows.
    d : torch.Tensor
        Gradient of the result, of the same type.
    rows : int
        Of it.
    **shape : int
        See :func:`amsincnet_sb.kernels.cuda.kernels.window_grad`.

    Returns
    -------
    torch.Tensor
        ``[parts, KK, N]``, to be added up.
    """
    acc, precision = arithmetic(a)
    size, n = shape["KK"], shape["N"]
    tiles = _grad_tiles(n, size, a.element_size())
    count, parts, each = grad_parts(rows, size, n, a.element_size())
    out = torch.empty(parts, size, n, dtype=sum_dtype(a), device=a.device)
    kernels().window_grad[(count, parts)](
        a, d, out, rows, each, ACC=acc, PRECISION=precision, **shape, **tiles
    )
    return out


def grad_parts(rows, size, n, itemsize):
    """How the work of a :func:`window_grad` is divided.

    Arguments
    ---------
    rows : int
        That are summed over.
    size, n : int
        Of the matrix.
    itemsize : int
        Bytes of a number.

    Returns
    -------
    count : int
        Programs a part.
    parts : int
        Sums of some rows each.
    each : int
        Rows of a part.
    """
    tiles = _grad_tiles(n, size, itemsize)
    count = -(-size // tiles["BK"]) * -(-n // tiles["BN"])
    # About two programs a multiprocessor, whatever the shape; a constant, so
    # that the order of summation is the same on every device.
    parts = max(1, min(264 // count, rows // 512))
    each = -(-rows // (parts * tiles["BR"])) * tiles["BR"]
    return count, -(-rows // each), each


def _grad_tiles(n, k, itemsize):
    """Tile sizes, warps and pipeline stages of a window_grad."""
    bn = min(128 if itemsize == 2 else 64, max(16, power_of_2(n)))
    bk = min(128 if n <= 64 else 64, max(16, power_of_2(k)))
    return {
        "BR": 64 if itemsize == 2 else 32,
        "BK": bk,
        "BN": bn,
        "num_warps": 4,
        "num_stages": 3,
    }
