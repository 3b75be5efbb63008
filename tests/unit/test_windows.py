"""The rule of sliding windows against a loop."""

import pytest
import torch

from amsincnet_sb.nnet.windows import count_windows


def naive_count(length, window, hop, released):
    count = start = 0
    while start + window < length if released else start + window <= length:
        count += 1
        start += hop
    return 1 if length < window else count


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("window, hop", [(20, 6), (20, 1), (5, 9), (1, 1)])
def test_counts(window, hop, released):
    lengths = torch.arange(1, 150)
    counts = count_windows(lengths, window, hop, released)
    assert counts.tolist() == [
        naive_count(n, window, hop, released) for n in lengths.tolist()
    ]
