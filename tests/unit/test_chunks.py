"""Random chunks: a pure function of seed and step, fair to every sample."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.utils.data import DataLoader

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks

WINDOW = 10
LENGTHS = [30, 10, 14, 100, 7, 1]


@pytest.fixture(scope="module")
def audio():
    # Every sample of the corpus has its own value, its position.
    ends = np.cumsum(LENGTHS)
    waves = [
        torch.arange(end - n, end, dtype=torch.float32) / 32768
        for n, end in zip(LENGTHS, ends)
    ]
    return ResidentAudio(waves, [3, 1, 4, 1, 5, 9], "abcdef")


def chunks(audio, batch_size=8, seed=1, batches=100, **kwargs):
    return RandomChunks(audio, WINDOW, batch_size, batches, seed, **kwargs)


def positions(wavs):
    return (wavs * 32768).round().long()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_chunks_are_stretches_of_the_sentence_they_name(audio):
    wavs, labels, sentence = chunks(audio, batch_size=4000).draw(3)
    assert wavs.dtype == torch.float32 and wavs.shape == (4000, WINDOW)
    assert torch.equal(labels, audio.labels[sentence])
    for row, i in zip(positions(wavs).tolist(), sentence.tolist()):
        begin, length = audio.starts[i].item(), LENGTHS[i]
        first = row[0]
        if length >= WINDOW:
            assert row == list(range(first, first + WINDOW))
            assert begin <= first and row[-1] < begin + length
        else:  # repeated from its start
            assert row == [begin + k % length for k in range(WINDOW)]


def test_every_sentence_and_every_start_equally_often(audio):
    wavs, _, sentence = chunks(audio, batch_size=60_000).draw(0)
    observed = np.bincount(sentence.numpy(), minlength=6)
    statistic = ((observed - 10_000) ** 2 / 10_000).sum()
    assert chi2.sf(statistic, 5) > 1e-5
    starts = positions(wavs)[:, 0] - audio.starts[sentence]
    for i, length in enumerate(LENGTHS):
        choices = max(1, length - WINDOW + 1)  # both ends included
        counts = np.bincount(starts[sentence == i].numpy(), minlength=choices)
        assert len(counts) == choices and (counts > 0).all()
        if choices > 1:
            expected = counts.sum() / choices
            statistic = ((counts - expected) ** 2 / expected).sum()
            assert 1e-5 < chi2.sf(statistic, choices - 1) < 1 - 1e-5


def test_pure_function_of_seed_and_step(audio):
    one, two = chunks(audio), chunks(audio)
    expected = [one.draw(step) for step in range(5)]
    for step in (4, 0, 3, 3, 1, 2):
        assert same(two.draw(step), expected[step])
    for a in range(5):
        for b in range(a):
            assert not same(expected[a], expected[b])


def test_torchs_generator_is_left_alone(audio):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = chunks(audio).draw(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(chunks(audio).draw(0), first)


@pytest.mark.parametrize("other", [0, 2, 1234])
def test_seeds_differ(audio, other):
    drawn = [chunks(audio, seed=1).draw(step)[2] for step in range(50)]
    others = [chunks(audio, seed=other).draw(step)[2] for step in range(50)]
    equal = (torch.cat(drawn) == torch.cat(others)).double().mean()
    assert 0.05 < equal < 0.30  # one in six


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
        together = [
            torch.cat(pieces)
            for pieces in zip(*(part.draw(step) for part in parts))
        ]
        assert same(together, whole.draw(step))


def test_batch_size_does_not_change_the_sequence(audio):
    small, large = chunks(audio, batch_size=3), chunks(audio, batch_size=12)
    joined = zip(*(small.draw(step) for step in range(4)))
    assert same([torch.cat(x) for x in joined], large.draw(0))


def test_step_as_a_tensor(audio):
    for step in (0, 5, 10**9):
        tensor = torch.tensor(step)
        assert same(chunks(audio).draw(tensor), chunks(audio).draw(step))


def test_an_epoch_of_items(audio):
    epoch = chunks(audio, batches=4)
    assert len(epoch) == 4
    for number in (1, 2, 7):
        epoch.set_epoch(number)
        batches = list(DataLoader(epoch, batch_size=None))
        assert len(batches) == 4
        for item, batch in enumerate(batches):
            wavs, labels, sentence = epoch.draw(4 * (number - 1) + item)
            assert torch.equal(batch.sig.data, wavs)
            assert torch.equal(batch.sig.lengths, torch.ones(8))
            assert torch.equal(batch.spk_id_encoded.data, labels[:, None])
            assert torch.equal(batch.utterance, sentence)
            assert len(batch) == 8 and batch.to("cpu") is batch
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            epoch[outside]


def test_a_batch_can_be_sent_to_another_process(audio):
    batch = chunks(audio)[2]
    twin = pickle.loads(pickle.dumps(batch))
    assert torch.equal(twin.sig.data, batch.sig.data)
    assert not hasattr(batch, "something_else")
