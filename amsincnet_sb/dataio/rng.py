"""Random numbers that are a pure function of a counter.

A generator with a state has to be saved to resume a run exactly and gives
every process its own sequence. Hashing a counter needs neither: number ``n``
is the same whoever asks, in whatever order, on whatever device.
"""

__all__ = ["random_integers"]

GOLDEN = 0x9E3779B97F4A7C15
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _signed(x):
    """The int64 with the bits of a 64-bit number."""
    return (x & (1 << 64) - 1) - ((x >> 63 & 1) << 64)


def _shift(x, bits):
    """Logical right shift; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x):
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ _shift(x, 30)) * _signed(MIX[0])
    x = (x ^ _shift(x, 27)) * _signed(MIX[1])
    return x ^ _shift(x, 31)


def random_integers(seed, stream, counter, below):
    """int64 in [0, below) that depend on (seed, stream, counter) alone.

    ``stream`` says what a number is for: different streams are independent.
    ``counter`` is an int64 tensor of any shape on any device. ``below``, an
    int or a tensor, is at least 1 and below 2**31; the two broadcast.

    Example
    -------
    >>> import torch
    >>> random_integers(1234, 0, torch.arange(5), 100)
    tensor([74, 88, 77,  7, 75])
    """
    key = _signed((seed * 2 + 1) * GOLDEN + stream * MIX[0])
    bits = _splitmix(_splitmix(counter * _signed(GOLDEN) + key) ^ key)
    return (_shift(bits, 32) * below) >> 32
