"""Triton kernels for normalisation over time and other reductions.

Imported when one is first launched; layouts as in :mod:`.triton_matmul`.
"""

import triton
import triton.language as tl


@triton.jit
def _shown(raw, floor, ABS: tl.constexpr, LOG: tl.constexpr):
    """The value to normalise: raw, its magnitude, or the logarithm of that."""
    if LOG:
        return tl.log(tl.abs(raw) + floor)
    if ABS:
        return tl.abs(raw)
    return raw


@triton.jit
def _values(
    z,
    t,
    c,
    floor,
    T: tl.constexpr,
    CP: tl.constexpr,
    ABS: tl.constexpr,
    LOG: tl.constexpr,
    ACC: tl.constexpr,
):
    """The values to normalise of some times and channels; 0 behind the end."""
    ok = (t < T)[:, None] & (c < CP)[None, :]
    v = tl.load(z + t[:, None] * CP + c[None, :], mask=ok, other=0.0).to(ACC)
    return tl.where(ok, _shown(v, floor, ABS, LOG), 0.0)


@triton.jit
def _centred_square(v, mean, t, T: tl.constexpr):
    v = tl.where((t < T)[:, None], v - mean[None, :], 0.0)
    return v * v


@triton.jit
def norm_forward(
    z,
    gain,
    shift,
    keep,
    y,
    mean_out,
    std_out,
    eps,
    tiny,
    slope,
    floor,
    T: tl.constexpr,
    TZ: tl.constexpr,  # rows an example in z
    C: tl.constexpr,
    CP: tl.constexpr,
    ABS: tl.constexpr,
    LOG: tl.constexpr,
    MASKED: tl.constexpr,
    ACC: tl.constexpr,
    TB: tl.constexpr,
    CB: tl.constexpr,
):
    """Normalise over time, gain and shift, LeakyReLU; padding becomes 0.

    So do the channels of an example that are not to be kept.
    """
    example = (tl.program_id(0) // tl.cdiv(CP, CB)).to(tl.int64)
    c = (tl.program_id(0) % tl.cdiv(CP, CB)) * CB + tl.arange(0, CB)
    t = tl.arange(0, TB)
    z += example * TZ * CP
    y += example * T * CP
    there = c < CP
    shown = c < C
    if MASKED:
        kept = tl.load(keep + example * CP + c, mask=there, other=0)
        shown = shown & (kept != 0)
    v = _values(z, t, c, floor, T, CP, ABS, LOG, ACC)
    total = v
    # One pass where all of time fits in a tile; else z is read again.
    for t0 in range(TB, T, TB):
        total += _values(z, t0 + t, c, floor, T, CP, ABS, LOG, ACC)
    mean = tl.sum(total, 0) / T
    total = _centred_square(v, mean, t, T)
    for t0 in range(TB, T, TB):
        u = _values(z, t0 + t, c, floor, T, CP, ABS, LOG, ACC)
        total += _centred_square(u, mean, t0 + t, T)
    std = tl.sqrt(tl.sum(total, 0) / (T - 1) + tiny)
    scale = 1.0 / (std + eps)
    for t0 in range(0, T, TB):
        at = (t0 + t)[:, None] * CP + c[None, :]
        ok = (t0 + t < T)[:, None] & there[None, :]
        if T > TB:
            v = _values(z, t0 + t, c, floor, T, CP, ABS, LOG, ACC)
        u = tl.load(gain + at, mask=ok, other=0.0).to(ACC)
        u = u * ((v - mean[None, :]) * scale[None, :])
        u += tl.load(shift + at, mask=ok, other=0.0).to(ACC)
        u = tl.where(u > 0, u, u * slope)
        u = tl.where(shown[None, :], u, 0.0)
        tl.store(y + at, u.to(y.dtype.element_ty), mask=ok)
    tl.store(mean_out + example * CP + c, mean, mask=there)
    tl.store(std_out + example * CP + c, std, mask=there)


@triton.jit
def norm_sums(
    dy,
    z,
    gain,
    shift,
    keep,
    mean_in,
    std_in,
    sum_out,
    dot_out,
    eps,
    slope,
    floor,
    T: tl.constexpr,
    TZ: tl.constexpr,
    TY: tl.constexpr,  # rows an example in dy
    CP: tl.constexpr,
    ABS: tl.constexpr,
    LOG: tl.constexpr,
    MASKED: tl.constexpr,
    ACC: tl.constexpr,
    TB: tl.constexpr,
    CB: tl.constexpr,
):
    """Of ``h = gain · dy · LeakyReLU'``: its sum over time, and with x̂."""
    example = (tl.program_id(0) // tl.cdiv(CP, CB)).to(tl.int64)
    c = (tl.program_id(0) % tl.cdiv(CP, CB)) * CB + tl.arange(0, CB)
    t = tl.arange(0, TB)
    there = c < CP
    mean = tl.load(mean_in + example * CP + c, mask=there, other=0.0)
    std = tl.load(std_in + example * CP + c, mask=there, other=1.0)
    scale = 1.0 / (std + eps)
    z += example * TZ * CP
    dy += example * TY * CP
    total = tl.zeros((TB, CB), ACC)
    dot = tl.zeros((TB, CB), ACC)
    for t0 in range(0, T, TB):
        at = (t0 + t)[:, None] * CP + c[None, :]
        ok = (t0 + t < T)[:, None] & there[None, :]
        v = _values(z, t0 + t, c, floor, T, CP, ABS, LOG, ACC)
        v = (v - mean[None, :]) * scale[None, :]
        g = tl.load(gain + at, mask=ok, other=0.0).to(ACC)
        u = g * v + tl.load(shift + at, mask=ok, other=0.0).to(ACC)
        h = tl.load(dy + at, mask=ok, other=0.0).to(ACC) * g
        h = tl.where(u > 0, h, h * slope)
        total += h
        dot += h * v
    total, dot = tl.sum(total, 0), tl.sum(dot, 0)
    if MASKED:
        kept = tl.load(keep + example * CP + c, mask=there, other=0) != 0
        total, dot = tl.where(kept, total, 0.0), tl.where(kept, dot, 0.0)
    tl.store(sum_out + example * CP + c, total, mask=there)
    tl.store(dot_out + example * CP + c, dot, mask=there)


@triton.jit
def norm_backward(
    dy,
    z,
    code,
    gain,
    shift,
    keep,
    mean_in,
    std_in,
    sum_in,
    dot_in,
    d,
    dgain,
    dshift,
    B,
    EXAMPLES: tl.constexpr,  # examples a split
    eps,
    slope,
    floor,
    T: tl.constexpr,
    TZ: tl.constexpr,
    TY: tl.constexpr,
    TD: tl.constexpr,  # pooled rows an example in d, LEAD among them
    LEAD: tl.constexpr,
    CP: tl.constexpr,
    POOL: tl.constexpr,
    ABS: tl.constexpr,
    LOG: tl.constexpr,
    MASKED: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient at the convolution's output, zero where not the maximum.

    ``d`` is ``[B, TD · POOL, CP]``; its rows before and behind the valid ones
    become zero. Also the gradients of gain and shift, one part a split.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.program_id(1)
    row = i // CP
    c = i % CP
    t = row - LEAD
    inside = row < TD
    valid = (t >= 0) & (t < T)
    at = t * CP + c
    g = tl.load(gain + at, mask=valid, other=0.0).to(ACC)
    b = tl.load(shift + at, mask=valid, other=0.0).to(ACC)
    gain_sum = tl.zeros((BLOCK,), ACC)
    shift_sum = tl.zeros((BLOCK,), ACC)
    for nth in range(0, EXAMPLES):
        e = (split * EXAMPLES + nth).to(tl.int64)
        here = e < B
        ok = valid & here
        mean = tl.load(mean_in + e * CP + c, mask=here, other=0.0)
        std = tl.load(std_in + e * CP + c, mask=here, other=1.0)
        total = tl.load(sum_in + e * CP + c, mask=here, other=0.0)
        dot = tl.load(dot_in + e * CP + c, mask=here, other=0.0)
        raw = tl.load(z + e * TZ * CP + at, mask=ok, other=0.0).to(ACC)
        v = _shown(raw, floor, ABS, LOG)
        scale = 1.0 / (std + eps)
        v = (v - mean) * scale
        u = tl.load(dy + e * TY * CP + at, mask=ok, other=0.0).to(ACC)
        if MASKED:
            kept = tl.load(keep + e * CP + c, mask=here, other=0) != 0
            u = tl.where(kept, u, 0.0)
        u = tl.where(g * v + b > 0, u, u * slope)
        gain_sum += u * v
        shift_sum += u
        u = (g * u - total / T) * scale - v * dot / (std * (T - 1))
        if LOG:
            u = u / (tl.abs(raw) + floor)
        if ABS:
            u = tl.where(raw > 0, u, tl.where(raw < 0, -u, 0.0))
        u = tl.where(ok, u, 0.0).to(d.dtype.element_ty)
        into = d + e * TD * POOL * CP + row * POOL * CP + c
        if POOL == 1:
            tl.store(into, u, mask=inside & here)
        else:
            phase = tl.load(code + e * TZ * CP + at, mask=ok, other=0)
            for q in tl.static_range(POOL):
                tl.store(
                    into + q * CP,
                    tl.where(phase == q, u, 0.0),
                    mask=inside & here,
                )
    part = tl.cast(split, tl.int64) * T * CP
    tl.store(dgain + part + at, gain_sum, mask=valid)
    tl.store(dshift + part + at, shift_sum, mask=valid)


@triton.jit
def affine(
    gain,
    shift,
    out,
    C: tl.constexpr,
    T: tl.constexpr,
    CP: tl.constexpr,
    TB: tl.constexpr,
    CB: tl.constexpr,
):
    """Both ``[C, T]`` into ``[2, T, CP]``, with zeros in the padding."""
    tile = tl.program_id(0)
    t = (tile // tl.cdiv(CP, CB)) * TB + tl.arange(0, TB)
    c = (tile % tl.cdiv(CP, CB)) * CB + tl.arange(0, CB)
    first = tl.program_id(1) == 0
    at = t[:, None] + (c * T)[None, :]
    ok = (t < T)[:, None] & (c < C)[None, :]
    # Of one of the two nothing is read.
    v = tl.load(gain + at, mask=ok & first, other=0.0)
    v += tl.load(shift + at, mask=ok & (tl.program_id(1) == 1), other=0.0)
    into = tl.program_id(1) * T * CP + (t * CP)[:, None] + c[None, :]
    tl.store(out + into, v, mask=(t < T)[:, None] & (c < CP)[None, :])


@triton.jit
def fixed_norm(
    x,
    gain,
    shift,
    y,
    TOTAL,
    slope,
    floor,
    T: tl.constexpr,
    C: tl.constexpr,
    SB: tl.constexpr,  # elements from one example to the next, in x,
    ST: tl.constexpr,  # and from one time to the next
    LOG: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Magnitudes or their logarithms, gain and shift, LeakyReLU."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = i < TOTAL
    c = i % C
    at = (i // (T * C)) * SB + (i // C % T) * ST + c
    v = _shown(tl.load(x + at, mask=ok, other=0.0).to(ACC), floor, True, LOG)
    v = v * tl.load(gain + c).to(ACC) + tl.load(shift + c).to(ACC)
    v = tl.where(v > 0, v, v * slope)
    tl.store(y + i, v.to(y.dtype.element_ty), mask=ok)


@triton.jit
def mean_and_std(
    x,
    out,
    tiny,
    T: tl.constexpr,
    C: tl.constexpr,
    ACC: tl.constexpr,
    TB: tl.constexpr,
    CB: tl.constexpr,
):
    """Of each channel over time: all means of an example, then the others."""
    example = (tl.program_id(0) // tl.cdiv(C, CB)).to(tl.int64)
    c = (tl.program_id(0) % tl.cdiv(C, CB)) * CB + tl.arange(0, CB)
    t = tl.arange(0, TB)
    x += example * T * C
    total = tl.zeros((TB, CB), ACC)
    for t0 in range(0, T, TB):
        at = (t0 + t)[:, None] * C + c[None, :]
        ok = (t0 + t < T)[:, None] & (c < C)[None, :]
        total += tl.load(x + at, mask=ok, other=0.0).to(ACC)
    mean = tl.sum(total, 0) / T
    total = tl.zeros((TB, CB), ACC)
    for t0 in range(0, T, TB):
        at = (t0 + t)[:, None] * C + c[None, :]
        ok = (t0 + t < T)[:, None] & (c < C)[None, :]
        v = tl.load(x + at, mask=ok, other=0.0).to(ACC)
        total += _centred_square(v, mean, t0 + t, T)
    std = tl.sqrt(tl.sum(total, 0) / T + tiny)
    out += example * 2 * C + c
    tl.store(out, mean, mask=c < C)
    tl.store(out + C, std, mask=c < C)


@triton.jit
def mark_nonfinite(x, flag, size, BLOCK: tl.constexpr):
    """Infinity into ``flag`` if a value of ``x`` is NaN or infinite."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < size, other=0.0)
    finite = tl.abs(values) < float("inf")
    # All that write, write the same value, so that nobody waits for others.
    tl.store(flag + 0 * at, float("inf"), mask=~finite)
