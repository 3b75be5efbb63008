"""Windows of sentences against a loop over samples."""

import pytest
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import SlidingWindows
from amsincnet_sb.nnet.windows import count_windows

WINDOW, HOP = 20, 6
LENGTHS = [*range(1, 60), 20, 26, 200, 3]


def naive_starts(length, window, hop, released):
    if length < window:
        return [0]
    starts, start = [], 0
    while start + window < length if released else start + window <= length:
        starts.append(start)
        start += hop
    return starts


def corpus(lengths):
    begin, waves = 0, []
    for length in lengths:
        index = torch.arange(begin, begin + length)
        waves.append(index.float() / 32768)
        begin += length
    labels = [i % 5 for i in range(len(lengths))]
    return ResidentAudio(waves, labels, map(str, range(len(lengths))))


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("window, hop", [(20, 6), (20, 1), (5, 9), (1, 1)])
def test_counts(window, hop, released):
    lengths = torch.arange(1, 150)
    counts = count_windows(lengths, window, hop, released)
    expected = [
        len(naive_starts(n, window, hop, released)) for n in lengths.tolist()
    ]
    assert counts.tolist() == expected


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_windows(released, batch_size):
    audio = corpus(LENGTHS)
    windows = SlidingWindows(audio, WINDOW, HOP, batch_size, released)
    expected = []
    for i, length in enumerate(LENGTHS):
        begin = sum(LENGTHS[:i])
        for start in naive_starts(length, WINDOW, HOP, released):
            row = [begin + (start + k) % length for k in range(WINDOW)]
            expected.append((i, i % 5, row))
    batches = list(windows)
    assert len(batches) == len(windows) == -(-len(expected) // batch_size)
    assert all(len(b.utterance) == batch_size for b in batches[:-1])
    found = [
        (i, label, row)
        for batch in batches
        for i, label, row in zip(
            batch.utterance.tolist(),
            batch.spk_id_encoded.data.squeeze(1).tolist(),
            (batch.sig.data * 32768).round().long().tolist(),
        )
    ]
    assert found == expected


def test_the_released_empty_row():
    windows = SlidingWindows(corpus(LENGTHS), WINDOW, HOP, 8, released=True)
    for length, count, empty in zip(
        LENGTHS, windows.counts.tolist(), windows.empty_row.tolist()
    ):
        if length < WINDOW:
            assert (count, empty) == (1, False)
        else:
            # The released code allocates this many rows.
            assert count + empty == (length - WINDOW) // HOP + 1
            assert empty == ((length - WINDOW) % HOP == 0)
    assert SlidingWindows(corpus(LENGTHS), WINDOW, HOP, 8).empty_row is None


def test_no_window_at_all():
    windows = SlidingWindows(corpus([20, 20]), WINDOW, HOP, 8, released=True)
    assert len(windows) == 0 and list(windows) == []
    assert windows.empty_row.all()


def test_outside():
    windows = SlidingWindows(corpus([26]), WINDOW, HOP, 1)
    for item in (-1, 2):
        with pytest.raises(IndexError):
            windows[item]
