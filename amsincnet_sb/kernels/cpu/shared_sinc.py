"""The sinc layer of overlapping windows, filtered once for all of them.

Without a gain of its own, the input's normalisation gives each window a mean
and a scale alone, and filtering is linear: with the sum ``s`` of a filter's
taps, ``filter(scale * (x - mean))`` is ``scale * (filter(x) - mean * s)``. So
a recording is filtered once, the largest and the smallest output of every pool
are kept, and the maximum of a window's magnitudes follows from them:
``scale * max(high - mean * s, mean * s - low)``.
"""

import functools
import math

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cpu.folding import fold
from amsincnet_sb.kernels.cpu.matmul import matmul_t
from amsincnet_sb.nnet.normalization import TINY

__all__ = ["SharedSinc"]

# Pools that are filtered, and windows that are normalised, at a time: as many
# as the cache holds.
_POOLS, _WINDOWS = 4096, 4
# Deviation of a window, relative to its distance from the recording's mean.
_STILL = 1e-5


class SharedSinc:
    """A frozen sinc layer of windows that are a strided view of a recording.

    Arguments
    ---------
    filters : tuple of torch.Tensor
        Even and odd, see :func:`amsincnet_sb.kernels.cpu.folding.fold_filters`.
    response : torch.Tensor
        ``[channels]``, sums of the filters' taps.
    norm : tuple of torch.Tensor
        Gain and bias, each ``[pooled time, channels]``, or ``[channels]``
        where windows are not normalised by their own mean and deviation.
    taps, pool, eps, slope, dtype, floor
        See :class:`amsincnet_sb.kernels.Kernels`; ``dtype`` is that of the
        result. Filters are always applied in the recording's own: in bfloat16
        loud bands would cover faint ones.
    """

    def __init__(
        self, filters, response, norm, taps, pool, eps, slope, dtype, floor
    ):
        self.filters, self.response, self.norm = filters, response, norm
        self.taps, self.pool, self.eps = taps, pool, eps
        self.slope, self.dtype, self.floor = slope, dtype, floor
        self.fixed = norm[0].dim() == 1

    def turns(self, windows):
        """How many passes serve all windows; 0 where nothing is shared.

        In each pass, windows start at whole pools.
        """
        hop = windows.stride(0)
        turns = self.pool // math.gcd(hop, self.pool)
        overlap = hop * turns < windows.shape[1]
        return turns * (len(windows) > 1 and overlap and windows.stride(1) == 1)

    def __call__(self, windows):
        """``[windows, window]`` to ``[windows, pooled time, channels]``."""
        turns = self.turns(windows)
        pooled = (windows.shape[1] - self.taps + 1) // self.pool
        found = windows.new_empty(
            (len(windows), pooled, len(self.response)), dtype=self.dtype
        )
        for first in range(min(turns, len(windows))):
            self._fill(found[first::turns], windows[first::turns])
        return found

    def _fill(self, found, windows):
        count, window = windows.shape
        hop = windows.stride(0)
        wave = windows.as_strided(((count - 1) * hop + window,), (1,))
        middle = wave.mean()
        high, low = self._extremes(wave - middle)
        mean = windows.mean(1)
        variance = (windows - mean[:, None]).square().sum(1) / (window - 1)
        std = (variance + TINY).sqrt().view(-1, 1, 1)
        apart = (mean - middle).view(-1, 1, 1)
        # Of a constant window nothing but rounding would be left.
        still = std <= _STILL * apart.abs()
        # A normalisation takes off what is constant in a window, as the scale's
        # logarithm is: the floor is multiplied then, and nothing divided.
        size = std + self.eps
        shift = apart * self.response
        add = self.floor * size if self.floor else torch.zeros_like(size)
        above, below = add - shift, add + shift
        pooled, channels = found.shape[1:]
        step = hop // self.pool * channels
        for begin in range(0, count, _WINDOWS):
            some = slice(begin, begin + _WINDOWS)
            shape = len(above[some]), pooled, channels
            strides = step, channels, 1
            x = high.as_strided(shape, strides, begin * step) + above[some]
            other = below[some] - low.as_strided(shape, strides, begin * step)
            x = torch.maximum(x, other, out=x)
            if still[some].any():
                x = torch.where(still[some], add[some], x)
            if self.fixed or not self.floor:
                x.div_(size[some])
            if self.floor:
                x.log_()
            found[some] = self._normalised(x)

    def _extremes(self, wave):
        """Largest and smallest output of each pool, ``[pools, channels]``."""
        span = self.taps + self.pool - 1
        pools = (len(wave) - self.taps + 1) // self.pool
        high = wave.new_empty(pools, len(self.response))
        low = torch.empty_like(high)
        for begin in range(0, pools, _POOLS):
            end = min(begin + _POOLS, pools)
            part = wave[begin * self.pool : (end - 1) * self.pool + span]
            even, odd = (
                matmul_t(rows[0], weight).unflatten(1, (-1, len(self.response)))
                for rows, weight in zip(
                    fold(part[None], self.taps, self.pool), self.filters
                )
            )
            odd.abs_()
            paired = odd.shape[1]
            top, rest = even[:, :paired] + odd, [*even.unbind(1)][paired:]
            bottom = even[:, :paired] - odd
            high[begin:end] = functools.reduce(
                torch.maximum, [*top.unbind(1), *rest]
            )
            low[begin:end] = functools.reduce(
                torch.minimum, [*bottom.unbind(1), *rest]
            )
        return high, low

    def _normalised(self, x):
        if not self.fixed:
            x -= x.mean(1, keepdim=True)
            variance = x.square().sum(1, keepdim=True) / (x.shape[1] - 1)
            x *= 1 / ((variance + TINY).sqrt() + self.eps)
        gain, bias = self.norm
        return F.leaky_relu_(torch.addcmul(bias, x, gain), self.slope)
