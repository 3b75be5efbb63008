"""Random chunks to train on and sliding windows to evaluate."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.utils.data import DataLoader

from amsincnet_sb.dataio.audio import resample
from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks, SlidingWindows
from amsincnet_sb.nnet.windows import count_windows

WINDOW = 10
LENGTHS = [30, 10, 14, 100, 7, 2]


def corpus(lengths, labels):
    """Every sample has its own value, its position."""
    ends = np.cumsum(lengths)
    waves = [
        torch.arange(end - n, end, dtype=torch.float32) / 32768
        for n, end in zip(lengths, ends)
    ]
    return ResidentAudio(waves, labels, map(str, range(len(lengths))))


@pytest.fixture(scope="module")
def audio():
    return corpus(LENGTHS, [3, 1, 4, 1, 5, 9])


def chunks(audio, batch_size=8, seed=1, batches=100, **kwargs):
    return RandomChunks(audio, WINDOW, batch_size, batches, seed, **kwargs)


def positions(wavs):
    return (wavs * 32768).round().long()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def joined(draws):
    return [torch.cat(pieces) for pieces in zip(*draws)]


def test_chunks_are_stretches_of_the_utterance_they_name(audio):
    wavs, labels, utterance = chunks(audio, batch_size=4000).draw(3)
    assert wavs.dtype == torch.float32 and wavs.shape == (4000, WINDOW)
    assert torch.equal(labels, audio.labels[utterance])
    for row, i in zip(positions(wavs).tolist(), utterance.tolist()):
        begin, length = audio.starts[i].item(), LENGTHS[i]
        first = row[0]
        if length >= WINDOW:
            assert row == list(range(first, first + WINDOW))
            assert begin <= first and row[-1] < begin + length
        else:  # repeated from its start
            assert row == [begin + k % length for k in range(WINDOW)]


def test_every_utterance_and_every_start_equally_often(audio):
    wavs, _, utterance = chunks(audio, batch_size=60_000).draw(0)
    observed = np.bincount(utterance.numpy(), minlength=6)
    statistic = ((observed - 10_000) ** 2 / 10_000).sum()
    assert chi2.sf(statistic, 5) > 1e-5
    starts = positions(wavs)[:, 0] - audio.starts[utterance]
    for i, length in enumerate(LENGTHS):
        choices = max(1, length - WINDOW + 1)  # both ends included
        counts = np.bincount(starts[utterance == i].numpy(), minlength=choices)
        assert len(counts) == choices and (counts > 0).all()
        if choices > 1:
            expected = counts.sum() / choices
            statistic = ((counts - expected) ** 2 / expected).sum()
            assert 1e-5 < chi2.sf(statistic, choices - 1) < 1 - 1e-5


def test_pure_function_of_seed_and_step(audio):
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    one, two = chunks(audio), chunks(audio)
    expected = [one.draw(step) for step in range(5)]
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(1)
    for step in (4, 0, 3, 3, 1, 2):
        assert same(two.draw(step), expected[step])
    for a in range(5):
        for b in range(a):
            assert not same(expected[a], expected[b])
    for step in (0, 5, 10**9):
        assert same(one.draw(torch.tensor(step)), one.draw(step))
    for seed in (0, 2, 1234):
        others = torch.cat(
            [chunks(audio, seed=seed).draw(i)[2] for i in range(50)]
        )
        drawn = torch.cat([one.draw(i)[2] for i in range(50)])
        assert 0.05 < (drawn == others).double().mean() < 0.30  # one in six


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_draw_together_what_one_would(audio, world_size):
    whole = chunks(audio, batch_size=8)
    parts = [
        chunks(
            audio, batch_size=8 // world_size, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    for step in (0, 1, 17):
        together = joined(part.draw(step) for part in parts)
        assert same(together, whole.draw(step))


def test_an_epoch_of_items(audio):
    epoch = chunks(audio, batches=4)
    assert len(epoch) == 4
    for number in (1, 2, 7):
        epoch.set_epoch(number)
        batches = list(DataLoader(epoch, batch_size=None))
        assert len(batches) == 4
        for item, batch in enumerate(batches):
            wavs, labels, utterance = epoch.draw(4 * (number - 1) + item)
            assert torch.equal(batch.sig.data, wavs)
            assert torch.equal(batch.sig.lengths, torch.ones(8))
            assert torch.equal(batch.spk_id_encoded.data, labels[:, None])
            assert torch.equal(batch.utterance, utterance)
            assert len(batch) == 8 and batch.to("cpu") is batch
    twin = pickle.loads(pickle.dumps(batch))  # sent to another process
    assert torch.equal(twin.sig.data, batch.sig.data)
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            epoch[outside]


# Windows, against a loop over samples ----------------------------------------

SIZE, HOP = 20, 6
SPOKEN = [*range(1, 60), 20, 26, 200, 3]


def naive_starts(length, released, size=SIZE, hop=HOP):
    if length < size:
        return [0]
    last = length - size - (1 if released else 0)
    return list(range(0, last + 1, hop))


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("size, hop", [(20, 6), (20, 1), (5, 9), (1, 1)])
def test_number_of_windows(size, hop, released):
    lengths = range(1, 150)
    counts = count_windows(torch.tensor(lengths), size, hop, released)
    assert counts.tolist() == [
        len(naive_starts(n, released, size, hop)) for n in lengths
    ]


@pytest.fixture(scope="module")
def spoken():
    return corpus(SPOKEN, [i % 5 for i in range(len(SPOKEN))])


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
@pytest.mark.parametrize("ranks", [1, 3])
def test_windows(spoken, released, batch_size, ranks):
    """In order; those of several processes are the batches in turns."""
    parts = [
        SlidingWindows(spoken, SIZE, HOP, batch_size, released, rank, ranks)
        for rank in range(ranks)
    ]
    expected = []
    for i, length in enumerate(SPOKEN):
        begin = sum(SPOKEN[:i])
        for start in naive_starts(length, released):
            row = [begin + (start + k) % length for k in range(SIZE)]
            expected.append((i, i % 5, row))
    number = -(-len(expected) // batch_size)
    assert sum(map(len, parts)) == number
    batches = [parts[n % ranks][n // ranks] for n in range(number)]
    assert all(len(b.utterance) == batch_size for b in batches[:-1])
    found = [
        (i, label, row)
        for batch in batches
        for i, label, row in zip(
            batch.utterance.tolist(),
            batch.spk_id_encoded.data.squeeze(1).tolist(),
            positions(batch.sig.data).tolist(),
        )
    ]
    assert found == expected
    for part in parts:
        for outside in (-1, len(part)):
            with pytest.raises(IndexError):
                part[outside]


def test_the_released_empty_row(spoken):
    windows = SlidingWindows(spoken, SIZE, HOP, 8, released=True)
    for length, count, empty in zip(
        SPOKEN, windows.counts.tolist(), windows.empty_row.tolist()
    ):
        if length < SIZE:
            assert (count, empty) == (1, False)
        else:
            # The released code allocates this many rows.
            assert count + empty == (length - SIZE) // HOP + 1
            assert empty == ((length - SIZE) % HOP == 0)
    assert SlidingWindows(spoken, SIZE, HOP, 8).empty_row is None


def test_no_window_at_all():
    windows = SlidingWindows(corpus([20, 20], [0, 1]), SIZE, HOP, 8, True)
    assert len(windows) == 0 and list(windows) == []
    assert windows.empty_row.all()


def silences():
    """Chunks in which next to nothing varies."""
    at_ends = torch.zeros(3200)
    at_ends[:3] = at_ends[-5:] = 0.1
    # Silence of A-law telephones is not 0; resampled to 16 kHz it alternates.
    telephone = torch.full((1600,), 8 / 2**15)
    return {
        "digital": torch.zeros(3200),
        "one value": torch.full((3200,), 0.1),
        "clipped": torch.full((3200,), -0.99),
        "but for its ends": at_ends,
        "resampled": resample("", telephone, 8000, 16000)[:3200],
    }


@pytest.mark.parametrize("kind", silences())
def test_silence_is_not_trained_on(kind):
    """Its gradients stopped Adam's steps for thousands."""
    torch.manual_seed(0)
    waves = [silences()[kind], *torch.randn(3, 3200) / 10]
    audio = ResidentAudio(waves, [3, 2, 1, 0], "abcd")
    chunks = RandomChunks(audio, 3200, 16, 20, seed=1)
    drawn = torch.stack(
        [chunks._utterances(chunks._numbers(n)) for n in range(20)]
    )
    assert (drawn[:, 0] == 0).any() and (drawn[:, 1] == 0).any()
    for step, before in enumerate(drawn):
        wavs, labels, utterance = chunks.draw(step)
        assert torch.equal(labels, audio.labels[utterance])
        for wave, number in zip(wavs, utterance):
            assert torch.equal(wave, waves[number])
        assert (utterance != 0).all()
        assert torch.equal(utterance[before != 0], before[before != 0])
        # Each silent one is what was before it.
        for place in (before == 0).nonzero():
            assert utterance[place] == utterance[place - 1]


def test_nothing_but_silence():
    """The step is what it was, and so is a chunk of NaN, which is told of."""
    silent = ResidentAudio([torch.zeros(3200)] * 2, [0, 1], "ab")
    wavs, labels, utterance = RandomChunks(silent, 3200, 16, 1, 1).draw(0)
    assert not wavs.any() and torch.equal(labels, utterance)
    broken = torch.full((3200,), torch.nan)
    broken = ResidentAudio([broken, torch.randn(3200) / 9], [0, 1], "ab")
    wavs, _, utterance = RandomChunks(broken, 3200, 16, 1, seed=1).draw(0)
    assert torch.equal(wavs.isnan().all(1), utterance == 0)
    assert utterance.unique().tolist() == [0, 1]
