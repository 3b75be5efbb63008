"""Random integers from a counter: uniform, independent, exact."""

import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from amsincnet_sb.dataio.rng import random_integers

MASK = 2**64 - 1


def splitmix(x):
    """SplitMix64's finaliser on Python's unbounded integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def reference(seed, stream, n, below):
    golden = 0x9E3779B97F4A7C15
    key = (2 * seed + 1) * golden + stream * 0xBF58476D1CE4E5B9 & MASK
    bits = splitmix(splitmix(n * golden + key & MASK) ^ key)
    return (bits >> 32) * below >> 32


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**63),
    st.integers(0, 5),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=4),
)
def test_a_pure_function_of_its_counter(seed, stream, counters, bounds):
    n = torch.tensor(counters).view(-1, 1)
    x = random_integers(seed, stream, n, torch.tensor(bounds))
    assert x.dtype == torch.int64
    assert x.tolist() == [
        [reference(seed, stream, counter, below) for below in bounds]
        for counter in counters
    ]
    one = random_integers(seed, stream, n, bounds[0])
    assert torch.equal(one[:, 0], x[:, 0])
    assert (x >= 0).all() and (x < torch.tensor(bounds)).all()
