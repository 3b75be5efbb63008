"""Symmetric filters in half the arithmetic; see the package for the idea."""

import torch
import torch.nn.functional as F

__all__ = ["fold", "fold_filters", "unfold_gradient"]


def fold_filters(filters, pool):
    """Symmetric filters for the sums and the differences of mirrored samples.

    Of ``filters`` ``[channels, taps]`` and ``pool`` neighbouring outputs, of
    which ``pairs = pool // 2`` are each other's mirror images, it makes

    * ``even``, ``[(pairs + pool % 2) * channels, columns]``: half the sum of
      the filters of a pool's first and last output, of the second and last
      but one, …; then the middle output's, if there is one;
    * ``odd``, ``[max(pairs, 1) * channels, columns]``: half the differences;
      zeros where there are no pairs.
    """
    mirrored = filters.flip(1)
    if (filters - mirrored).abs().max() > 1e-5 * filters.abs().max():
        raise ValueError("cnn: the filters must be symmetric in time.")
    filters = (filters + mirrored) / 2
    span, half, columns = _sizes(filters.shape[1], pool)
    weight = filters.new_ones(columns)
    weight[half:] = 0
    if span % 2:
        # The middle sample is its own mirror: its sum counts it twice.
        weight[half - 1] = 0.5
    outputs = [
        F.pad(filters, (at, pool - 1 - at))[:, :columns] * weight
        for at in range(pool)
    ]
    pairs = list(zip(outputs, reversed(outputs)))[: pool // 2]
    even = [(a + b) / 2 for a, b in pairs]
    odd = [(a - b) / 2 for a, b in pairs]
    if pool % 2:
        even.append(outputs[pool // 2])
    return torch.cat(even), torch.cat(odd or [torch.zeros_like(even[0])])


def fold(x, taps, pool):
    """Sums and differences of the mirrored samples of every pool.

    ``x[pool·q + i] ± x[pool·q + span−1−i]``, each ``[batch, pools, columns]``,
    of ``x`` ``[batch, time]``.
    """
    span, _, columns = _sizes(taps, pool)
    count = (x.shape[1] - taps + 1) // pool
    seen = pool * (count - 1) + span
    ahead = x[:, :seen].unfold(1, columns, pool)[:, :count]
    back = x[:, :seen].flip(1).unfold(1, columns, pool)[:, :count].flip(1)
    return ahead + back, torch.sub(ahead, back, out=back)


def unfold_gradient(even, odd, time, taps, pool, buffers):
    """The transpose of :func:`fold`: ``[batch, time]``.

    ``even`` and ``odd`` are ``[columns, batch, pools]``; ``buffers`` keeps, by
    batch size, the memory of the last call for the next.
    """
    span = taps + pool - 1
    columns, batch, count = even.shape
    # Column i = pool·k + r reaches sample pool·(q + k) + r from the front and
    # span−1−i + pool·q from the back. So for each r, a sum over k of rows that
    # are shifted by k: a sum over a skewed view of rows with zeros between.
    shifts = -(-columns // pool)
    skew = shifts - 1
    row = skew + count
    if batch not in buffers:
        length = shifts * pool * batch * row + skew
        buffers[batch] = even.new_zeros(2, length)
    rows = buffers[batch]
    view = rows[:, : len(rows[0]) - skew].view(2, -1, batch, row)
    view = view[:, :columns, :, skew:]
    torch.add(even, odd, out=view[0])
    torch.sub(even, odd, out=view[1])
    size = shifts, pool, batch, row
    across = pool * batch * row
    rest = batch * row, row, 1
    front = rows.as_strided(size, (across - 1, *rest), skew).sum(0)
    start = rows.stride(0)
    back = rows.as_strided(size, (across + 1, *rest), start).sum(0)

    grad = even.new_zeros(pool, batch, count + (span - 1) // pool)
    grad[:, :, :row] = front
    for r in range(pool):
        blocks, phase = divmod(span - 1 - r, pool)
        # Negative only where the row is padding, all zeros.
        shift = blocks - skew
        part = back[r, :, max(0, -shift) :]
        grad[phase, :, max(0, shift) : blocks + count] += part
    grad = grad.permute(1, 2, 0).flatten(1)
    return F.pad(grad, (0, time - grad.shape[1]))


def _sizes(taps, pool):
    """Samples that a pool sees; half of them; that rounded up for speed.

    A column behind ``half`` holds samples like any other, with weight 0.
    """
    span = taps + pool - 1
    half = (span + 1) // 2
    columns = -(-half // 16) * 16
    return span, half, columns if columns <= span - pool else half
