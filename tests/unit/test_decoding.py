"""The decoder against all sequences there are."""

from itertools import product

import numpy as np
import pytest

from amsincnet_sb.inference.decoding import Decoder, decode

PAUSE, CHANGE = 0.1, 0.7


def best_by_trying(scores, starts, minimum, costs):
    """The best labels among all segmentations that keep the minimum."""
    frames, best, labels = len(scores), -np.inf, None
    for cuts in product([False, True], repeat=frames - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [frames]
        total, found = 0.0, []
        for a, b in zip([0, *ends], ends):
            paused = b == frames or any(a < p <= b for p in starts)
            if b - a < minimum and not paused:
                break
            enter = costs + (PAUSE if a in starts else CHANGE)
            values = scores[a:b].sum(0) - enter
            total += values.max()
            found += [int(values.argmax())] * (b - a)
        else:
            if total > best:
                best, labels = total, found
    return labels


@pytest.mark.parametrize("seed", range(40))
def test_the_best_sequence_is_found(seed):
    rng = np.random.default_rng(seed)
    frames, speakers, minimum = rng.integers(1, [9, 4, 4])
    scores = rng.normal(size=(frames, speakers))
    costs = rng.uniform(0, 1, speakers)
    starts = {0, *rng.integers(0, frames, 2).tolist()}
    right = best_by_trying(scores, starts, minimum, costs)
    found = decode(scores, starts, minimum, costs, PAUSE, CHANGE)
    assert found.tolist() == right
    # Where nothing is decided early, it is the same frame by frame.
    for left in (50, 3, 0):
        decoder, told, since = Decoder(minimum, costs), [], 0
        for frame, row in enumerate(scores):
            if frame in starts:
                decoder.close()
                since = 0
            decoder.push(row, PAUSE if frame in starts else CHANGE)
            told += decoder.settle(left)
            since += 1
            most = max(left, min(minimum - 1, since))
            assert decoder.frames - len(told) <= most
        told += decoder.finish()
        assert len(told) == frames and (left < 50 or told == right)


@pytest.mark.parametrize("left", [8, 0])
def test_what_is_decided_goes_on_as_one_sequence(left):
    """No turn is shorter than the minimum, wherever it is cut."""
    rng = np.random.default_rng(0)
    decoder, told = Decoder(4, np.zeros(5)), []
    for row in rng.normal(size=(500, 5)):
        decoder.push(row, 1.0)
        told += decoder.settle(left)
    told += decoder.finish()
    changes = np.flatnonzero(np.diff(told)) + 1
    assert len(changes) > 20
    assert np.diff([0, *changes]).min() >= 4
