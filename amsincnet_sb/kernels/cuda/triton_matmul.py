"""Triton kernels for matmuls; imported when one is first launched.

Layout: feature maps are time-major, ``[batch, time, channels]``, with the
channels padded to a multiple of 16. Then the inputs of a convolution's output
position are *consecutive in memory*, and the matrix of all of them is the
feature map itself, read with overlapping rows: an implicit GEMM without any
copy. None of the kernels uses atomics, so results repeat bit for bit.
"""

import triton
import triton.language as tl


@triton.jit
def rearrange(
    source,
    out,
    N0: tl.constexpr,  # sizes of what is written,
    N1: tl.constexpr,
    N2: tl.constexpr,
    V1: tl.constexpr,  # and of the part that the source has; the rest is 0
    V2: tl.constexpr,
    S0: tl.constexpr,  # strides of the source,
    S1: tl.constexpr,
    S2: tl.constexpr,
    O0: tl.constexpr,  # and of what is written
    O1: tl.constexpr,
    O2: tl.constexpr,
    PARTS: tl.constexpr,  # parts to be added up,
    SP: tl.constexpr,  # and from one to the next
    ACC: tl.constexpr,
    B1: tl.constexpr,
    B2: tl.constexpr,
):
    """Permute, pad, cut in overlapping rows, convert, add up in one pass."""
    across = tl.cdiv(N2, B2)
    tile = tl.program_id(0)
    i0 = (tile // (across * tl.cdiv(N1, B1))).to(tl.int64)
    i1 = (tile // across % tl.cdiv(N1, B1)) * B1 + tl.arange(0, B1)
    i2 = (tile % across) * B2 + tl.arange(0, B2)
    at = i0 * S0 + (i1 * S1)[:, None] + (i2 * S2)[None, :]
    ok = (i1 < V1)[:, None] & (i2 < V2)[None, :]
    total = tl.zeros((B1, B2), ACC)
    # Unrolled, so that no load waits for another.
    for part in tl.static_range(PARTS):
        total += tl.load(source + at + part * SP, mask=ok, other=0.0).to(ACC)
    into = i0 * O0 + (i1 * O1)[:, None] + (i2 * O2)[None, :]
    tl.store(
        out + into,
        total.to(out.dtype.element_ty),
        mask=(i1 < N1)[:, None] & (i2 < N2)[None, :],
    )


@triton.jit
def toeplitz(
    filters,
    out,
    TOTAL,
    C: tl.constexpr,
    K: tl.constexpr,
    G: tl.constexpr,
    CP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``out[w, pos, c] = filters[c, w - pos]``, zero outside the filter."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = i // (G * CP) - (i // CP) % G
    c = i % CP
    inside = (i < TOTAL) & (tap >= 0) & (tap < K) & (c < C)
    value = tl.load(filters + c * K + tap, mask=inside, other=0.0)
    tl.store(out + i, value.to(out.dtype.element_ty), mask=i < TOTAL)


@triton.jit
def _of_rows(a, a_row, row_ok, k, KK: tl.constexpr):
    """The columns ``k`` of some rows of ``a``."""
    return tl.load(
        a + a_row[:, None] + k[None, :],
        mask=row_ok[:, None] & (k < KK)[None, :],
        other=0.0,
    )


@triton.jit
def _of_matrix(
    w,
    w_col,
    col_ok,
    k,
    RK: tl.constexpr,
    SWR: tl.constexpr,
    SWK: tl.constexpr,
    KK: tl.constexpr,
):
    """The rows ``k`` of some columns of the matrix."""
    w_row = (k // RK) * SWR + (k % RK) * SWK
    return tl.load(
        w + w_row[:, None] + w_col[None, :],
        mask=(k < KK)[:, None] & col_ok[None, :],
        other=0.0,
    )


@triton.jit
def _better(best, which, new, q: tl.constexpr, ABS: tl.constexpr):
    """Running maximum (of magnitudes), keeping sign and position; NaN wins."""
    if ABS:
        more = (tl.abs(new) > tl.abs(best)) | (new != new)
    else:
        more = (new > best) | (new != new)
    best = tl.where(more, new, best)
    return best, tl.where(more, q, which).to(tl.int8)


# The number of rows changes with the batch, the program does not.
@triton.jit(do_not_specialize=["M"])
def implicit_gemm(
    a,
    w,
    bias,
    out,
    code,
    slope,
    M,
    J: tl.constexpr,  # rows an example
    SB: tl.constexpr,  # elements from one example to the next
    SM: tl.constexpr,  # elements from one row to the next
    SQ: tl.constexpr,  # elements from one pool phase to the next, in a
    RK: tl.constexpr,  # in w: rows a group,
    SWR: tl.constexpr,  # from one group of rows to the next,
    SWK: tl.constexpr,  # from one row to the next,
    SWG: tl.constexpr,  # from one group of CP columns to the next,
    SWN: tl.constexpr,  # from one column to the next,
    SWQ: tl.constexpr,  # and from one pool phase to the next
    KK: tl.constexpr,
    N: tl.constexpr,
    CP: tl.constexpr,
    POOL: tl.constexpr,
    ABS: tl.constexpr,
    BIAS: tl.constexpr,  # length of the bias, 0 for none
    RELU: tl.constexpr,  # whether a LeakyReLU follows
    SKIP: tl.constexpr,  # where in a row of a what is added begins, or -1
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Overlapping rows of ``a`` times a matrix, max-pooled.

    ``out[m, n]`` is ``a[m, q, :] · w[q, :, n]`` of the phase ``q`` at which
    it (or its magnitude) is largest, ``code`` that ``q``. The unpooled feature
    map is never written. Bias, LeakyReLU and a residual connection can follow.
    """
    tiles = tl.cdiv(N, BN)
    rows = (tl.program_id(0) // tiles) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % tiles) * BN + tl.arange(0, BN)
    row_ok = rows < M
    col_ok = n < N
    a_row = (rows // J).to(tl.int64) * SB + (rows % J) * SM
    w_col = (n // CP) * SWG + (n % CP) * SWN

    best = tl.zeros((BM, BN), ACC)
    which = tl.zeros((BM, BN), tl.int8)
    if POOL == 3:
        # The usual case: all phases at once, so that what they share is
        # loaded once.
        one = tl.zeros((BM, BN), ACC)
        two = tl.zeros((BM, BN), ACC)
        for k0 in range(0, KK, BK):
            k = k0 + tl.arange(0, BK)
            left = _of_rows(a, a_row, row_ok, k, KK)
            right = _of_matrix(w, w_col, col_ok, k, RK, SWR, SWK, KK)
            best = tl.dot(
                left, right, best, input_precision=PRECISION, out_dtype=ACC
            )
            left = _of_rows(a, a_row + SQ, row_ok, k, KK)
            right = _of_matrix(w, w_col + SWQ, col_ok, k, RK, SWR, SWK, KK)
            one = tl.dot(
                left, right, one, input_precision=PRECISION, out_dtype=ACC
            )
            left = _of_rows(a, a_row + 2 * SQ, row_ok, k, KK)
            right = _of_matrix(w, w_col + 2 * SWQ, col_ok, k, RK, SWR, SWK, KK)
            two = tl.dot(
                left, right, two, input_precision=PRECISION, out_dtype=ACC
            )
        best, which = _better(best, which, one, 1, ABS)
        best, which = _better(best, which, two, 2, ABS)
    else:
        for q in tl.static_range(POOL):
            acc = tl.zeros((BM, BN), ACC)
            for k0 in range(0, KK, BK):
                k = k0 + tl.arange(0, BK)
                left = _of_rows(a, a_row + q * SQ, row_ok, k, KK)
                right = _of_matrix(
                    w, w_col + q * SWQ, col_ok, k, RK, SWR, SWK, KK
                )
                acc = tl.dot(
                    left, right, acc, input_precision=PRECISION, out_dtype=ACC
                )
            if q == 0:
                best = acc
            else:
                best, which = _better(best, which, acc, q, ABS)
    if BIAS > 0:
        best += tl.load(bias + n, mask=n < BIAS, other=0.0)[None, :]
    if RELU:
        best = tl.where(best > 0, best, best * slope)
    ok = row_ok[:, None] & col_ok[None, :]
    if SKIP >= 0:
        from_a = a + a_row[:, None] + (SKIP + n)[None, :]
        best += tl.load(from_a, mask=ok, other=0.0).to(ACC)
    at = rows[:, None].to(tl.int64) * N + n[None, :]
    tl.store(out + at, best.to(out.dtype.element_ty), mask=ok)
    if POOL > 1:
        tl.store(code + at, which, mask=ok)


@triton.jit
def implicit_gemm_grad(
    a,
    d,
    out,
    M,
    ROWS: tl.constexpr,  # rows a split, a multiple of BR
    J: tl.constexpr,
    SB: tl.constexpr,
    SM: tl.constexpr,
    DB: tl.constexpr,  # the same of d: from one example to the next,
    DM: tl.constexpr,  # from one row to the next,
    D0: tl.constexpr,  # and where the first begins
    KK: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """``out[s, k, n] = sum over the rows m of split s of a[m, k] d[m, n]``."""
    tiles = tl.cdiv(N, BN)
    k = (tl.program_id(0) // tiles) * BK + tl.arange(0, BK)
    n = (tl.program_id(0) % tiles) * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    k_ok = k < KK
    col_ok = n < N
    acc = tl.zeros((BK, BN), ACC)
    for m0 in range(0, ROWS, BR):
        rows = split * ROWS + m0 + tl.arange(0, BR)
        row_ok = rows < M
        example = (rows // J).to(tl.int64)
        within = rows % J
        left = tl.load(
            a + (example * SB + within * SM)[:, None] + k[None, :],
            mask=row_ok[:, None] & k_ok[None, :],
            other=0.0,
        )
        right = tl.load(
            d + (example * DB + within * DM + D0)[:, None] + n[None, :],
            mask=row_ok[:, None] & col_ok[None, :],
            other=0.0,
        )
        acc = tl.dot(
            tl.trans(left), right, acc, input_precision=PRECISION, out_dtype=ACC
        )
    at = split.to(tl.int64) * KK * N + k[:, None] * N + n[None, :]
    tl.store(out + at, acc, mask=k_ok[:, None] & col_ok[None, :])


@triton.jit
def fold(
    rows,
    out,
    TOTAL,
    T: tl.constexpr,
    J: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up overlapping rows: the adjoint of cutting a signal in them."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = i < TOTAL
    example = (i // T).to(tl.int64)
    t = i % T
    group = t // G
    total = tl.zeros((BLOCK,), ACC)
    for r in range(W // G):
        j = group - r
        value = tl.load(
            rows + (example * J + j) * W + r * G + t % G,
            mask=ok & (j >= 0) & (j < J),
            other=0.0,
        )
        total += value.to(ACC)
    tl.store(out + i, total, mask=ok)
