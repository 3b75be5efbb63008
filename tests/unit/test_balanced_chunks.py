"""Every speaker drawn alike, whatever each has recorded."""

import pytest
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks

LABELS = [4] * 300 + [0] * 3 + [7, 4]  # not in order, and 1, 2, 3, 5, 6 absent


@pytest.fixture(scope="module")
def audio():
    signs = torch.tensor([1.0, -1.0]).repeat(10)
    waves = [signs * (i + 1) / 2**15 for i in range(len(LABELS))]
    return ResidentAudio(waves, LABELS, map(str, range(len(LABELS))))


def drawn(audio, size=3000, step=0, **options):
    return RandomChunks(audio, 10, size, 100, 1, **options).draw(step)


def test_speakers_and_their_utterances_are_drawn_alike(audio):
    wavs, labels, utterance = drawn(audio, balance_speakers=True)
    assert torch.equal(labels, audio.labels[utterance])
    values = (wavs[:, 0].abs() * 2**15).round().long()
    assert torch.equal(values - 1, utterance)
    counts = torch.bincount(labels)
    assert counts[[0, 4, 7]].sum() == 3000
    # Five standard deviations of a binomial distribution.
    assert (counts[[0, 4, 7]] - 1000).abs().max() < 130
    few = torch.bincount(utterance)[300:303]
    assert (few - 1000 / 3).abs().max() < 90
    assert len(set(utterance[labels == 4].tolist())) > 270


def test_the_default_draws_utterances_alike(audio):
    _, labels, _ = drawn(audio)
    assert (labels == 4).sum() > 2900


def test_ranks_draw_what_one_process_would(audio):
    one = drawn(audio, 16, step=3, balance_speakers=True)
    two = [
        drawn(audio, 8, 3, rank=r, world_size=2, balance_speakers=True)
        for r in (0, 1)
    ]
    for whole, *parts in zip(one, *two):
        assert torch.equal(whole, torch.cat(parts))
    other = drawn(audio, 16, step=4, balance_speakers=True)
    assert not torch.equal(one[2], other[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_changes_nothing(audio):
    expected = drawn(audio, 64, balance_speakers=True)
    there = ResidentAudio([torch.zeros(20)] * len(LABELS), LABELS, LABELS)
    found = drawn(there.to("cuda"), 64, balance_speakers=True)
    assert torch.equal(found[2].cpu(), expected[2])
