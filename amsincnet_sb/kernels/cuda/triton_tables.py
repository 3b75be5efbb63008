"""Triton kernels over many tensors at once, of :mod:`.adamw` and :mod:`.restore`.

A table says where the tensors are; of a program, ``owners`` has the row that it
works on. Imported when one is first launched.
"""

import triton
import triton.language as tl

# Columns of AdamW's table.
PARAMETER = tl.constexpr(0)
GRADIENT = tl.constexpr(1)
MEAN = tl.constexpr(2)
SQUARE = tl.constexpr(3)
STEP = tl.constexpr(4)
RATE = tl.constexpr(5)
GROUP = tl.constexpr(6)
SIZE = tl.constexpr(7)
FIRST = tl.constexpr(8)
COLUMNS = tl.constexpr(9)
OPTIONS = tl.constexpr(6)  # numbers of a group


@triton.jit
def _tensor(row, column: tl.constexpr, ALIGNED: tl.constexpr):
    """A tensor of float32 whose address is in the table."""
    tensor = tl.load(row + column).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        tensor = tl.multiple_of(tensor, 16)
    return tensor


@triton.jit
def _update(p, g, m, v, at, mask, shrink, rate, w1, w2, root, eps):
    gradient = tl.load(g + at, mask=mask)
    mean = tl.load(m + at, mask=mask)
    mean += w1 * (gradient - mean)
    square = tl.load(v + at, mask=mask)
    square += w2 * (gradient * gradient - square)
    value = tl.load(p + at, mask=mask) * shrink
    value -= rate * mean / (tl.sqrt(square) * root + eps)
    tl.store(m + at, mean, mask=mask)
    tl.store(v + at, square, mask=mask)
    tl.store(p + at, value, mask=mask)


@triton.jit
def mark_gradients(
    table,
    owners,
    flag,
    BLOCKS,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    MANY: tl.constexpr,  # blocks of a program
):
    """Infinity into ``flag`` if a gradient's value is NaN or infinite."""
    for nth in tl.static_range(MANY):
        block = tl.program_id(0) * MANY + nth
        here = block < BLOCKS
        row = table + tl.load(owners + block, mask=here, other=0) * COLUMNS
        size = tl.where(here, tl.load(row + SIZE), 0)
        at = (block - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
        g = _tensor(row, GRADIENT, ALIGNED) + at
        g = tl.abs(tl.load(g, mask=at < size, other=0.0))
        # All that write, write the same value, so that nobody waits for others.
        tl.store(flag + 0 * at, float("inf"), mask=~(g < float("inf")))


@triton.jit
def adamw(
    table,
    owners,
    finite,
    numbers,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of a tensor; nothing where ``finite`` is 0.

    ``numbers`` are, of each group, the logarithms of the two betas, 1 less
    each of them, epsilon and the weight decay, in float64.
    """
    block = tl.program_id(0)
    row = table + tl.load(owners + block) * COLUMNS
    if tl.load(finite) != 0:
        numbers += tl.load(row + GROUP) * OPTIONS
        # float64, because 1 - 0.999 has four digits in float32
        step = tl.load(tl.load(row + STEP).to(tl.pointer_type(tl.float32)))
        step = step.to(tl.float64) + 1
        base = tl.load(tl.load(row + RATE).to(tl.pointer_type(tl.float32)))
        base = base.to(tl.float64)
        first = 1 - tl.exp(step * tl.load(numbers))
        second = 1 - tl.exp(step * tl.load(numbers + 1))
        w1 = tl.load(numbers + 2).to(tl.float32)
        w2 = tl.load(numbers + 3).to(tl.float32)
        eps = tl.load(numbers + 4).to(tl.float32)
        shrink = (1 - base * tl.load(numbers + 5)).to(tl.float32)
        rate = (base / first).to(tl.float32)
        root = (1 / tl.sqrt(second)).to(tl.float32)
        size = tl.load(row + SIZE)
        start = (block - tl.load(row + FIRST)) * BLOCK
        at = start + tl.arange(0, BLOCK)
        p = _tensor(row, PARAMETER, ALIGNED)
        g = _tensor(row, GRADIENT, ALIGNED)
        m = _tensor(row, MEAN, ALIGNED)
        v = _tensor(row, SQUARE, ALIGNED)
        # Without a mask several values are read and written at once.
        if start + BLOCK <= size:
            _update(p, g, m, v, at, None, shrink, rate, w1, w2, root, eps)
        else:
            mask = at < size
            _update(p, g, m, v, at, mask, shrink, rate, w1, w2, root, eps)


@triton.jit
def restore(table, owners, finite, BLOCK: tl.constexpr):
    """Bytes from where they are kept, where ``finite`` is 0.

    A row has the place of a tensor, that of its copy, its size in bytes and
    the first of its programs.
    """
    block = tl.program_id(0)
    row = table + tl.load(owners + block) * 4
    if tl.load(finite) == 0:
        size = tl.load(row + 2)
        at = (block - tl.load(row + 3)) * BLOCK + tl.arange(0, BLOCK)
        tensor = tl.load(row).to(tl.pointer_type(tl.uint8))
        kept = tl.load(row + 1).to(tl.pointer_type(tl.uint8))
        values = tl.load(kept + at, mask=at < size, other=0)
        tl.store(tensor + at, values, mask=at < size)
