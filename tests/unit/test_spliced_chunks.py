"""Chunks made of two of one speaker's, and chunks through codecs."""

import pytest
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks
from amsincnet_sb.utils.errors import InputError

LABELS = [4, 0, 4, 7, 0, 4]
WINDOW, SIZE = 10, 2000


def corpus(sign=1):
    """The samples of an utterance tell which it is, and where."""
    waves = [
        sign * (1000 * i + torch.arange(40.0)) / 2**15
        for i in range(len(LABELS))
    ]
    return ResidentAudio(waves, LABELS, [f"{i}.wav" for i in range(6)])


def drawn(size=SIZE, step=3, audio=None, **options):
    audio = corpus() if audio is None else audio
    wavs, labels, utterance = RandomChunks(
        audio, WINDOW, size, 100, 1, **options
    ).draw(step)
    return (wavs * 2**15).round().long().cpu(), labels.cpu(), utterance.cpu()


def test_the_end_is_another_chunk_of_the_same_speaker():
    plain, labels, utterance = drawn()
    found, same_labels, same = drawn(splice_probability=1.0)
    assert torch.equal(labels, same_labels) and torch.equal(utterance, same)
    changed = found != plain
    # From a sample on, the rest is a stretch of one utterance.
    cut = WINDOW - changed.sum(1)
    assert torch.equal(changed, torch.arange(WINDOW) >= cut[:, None])
    speaker = torch.tensor(LABELS)
    for row, where, label in zip(found, cut.tolist(), labels.tolist()):
        end = row[where:]
        assert torch.equal(end, end[:1] + torch.arange(len(end)))
        assert (speaker[end // 1000] == label).all()
    assert set(cut.tolist()) >= set(range(WINDOW))
    others = found[:, -1] // 1000
    for utterances in ([0, 2, 5], [1, 4]):
        of = torch.isin(utterance, torch.tensor(utterances))
        assert set(others[of].tolist()) == set(utterances)
        counts = torch.bincount(others[of])[utterances].float()
        # Five standard deviations of a binomial distribution.
        mean = of.sum() / len(utterances)
        assert (counts - mean).abs().max() < 5 * mean.sqrt()


def test_so_many_are_spliced():
    plain, *_ = drawn()
    assert torch.equal(drawn(splice_probability=0.0)[0], plain)
    share = (drawn(splice_probability=0.3)[0] != plain).any(1).float().mean()
    assert abs(share - 0.3) < 0.055


def test_ranks_draw_what_one_process_would():
    options = {"splice_probability": 0.5, "versions": [(0.4, corpus(-1))]}
    one = drawn(16, **options)
    two = [drawn(8, rank=r, world_size=2, **options) for r in (0, 1)]
    for whole, *parts in zip(one, *two):
        assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(drawn(16, 4, **options)[0], one[0])


def test_versions_come_in_their_shares_and_both_chunks_are_of_one():
    plain, *_ = drawn(splice_probability=0.5)
    half = corpus()
    half.samples = half.samples // 2
    versions = [(0.25, corpus(-1)), (0.25, half)]
    found, *_ = drawn(splice_probability=0.5, versions=versions)
    negated = (found == -plain).all(1)
    halved = ((found - plain / 2).abs() <= 1).all(1) & (plain > 99).all(1)
    for which in (negated, halved):
        assert abs(which.float().mean() - 0.25) < 0.055
    kept = (found == plain).all(1)
    assert (negated | halved | kept | (plain <= 99).any(1)).all()


def test_both_places_are_named():
    chunks = RandomChunks(corpus(), WINDOW, 4, 9, 1, splice_probability=1.0)
    text = chunks.describe(3, torch.tensor([False, True, True, False]))
    first, second = text.split(", spliced with ")
    wavs, _, utterance = chunks.draw(3)
    row = (wavs[1] * 2**15).round().long().tolist()
    start = row[0] - 1000 * int(utterance[1])
    assert first == f"{int(utterance[1])}.wav, samples {start} to {start + 10}"
    stop = row[-1] % 1000 + 1
    expected = f"{row[-1] // 1000}.wav, samples {stop - 10} to {stop}"
    assert second == f"{expected} (and 1 more of the step)"


@pytest.mark.parametrize(
    "options, named",
    [
        ({"splice_probability": 1.5}, "splice_probability is 1.5"),
        ({"versions": [(0.6, None), (0.5, None)]}, "shares of"),
        ({"versions": [(-0.1, None)]}, "shares of"),
    ],
)
def test_other_shares_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        RandomChunks(corpus(), WINDOW, 4, 9, 1, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_changes_nothing():
    expected = drawn(64, splice_probability=0.5, versions=[(0.4, corpus(-1))])
    found = drawn(
        64,
        audio=corpus().to("cuda"),
        splice_probability=0.5,
        versions=[(0.4, corpus(-1).to("cuda"))],
    )
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)
