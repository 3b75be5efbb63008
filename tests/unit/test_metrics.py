"""Frame and sentence error against loops over sentences."""

import csv
import math

import numpy as np
import pytest
import torch

from amsincnet_sb.training.metrics import SentenceErrors

SPEAKERS = 6
NAMES = [f"spk{i}" for i in range(SPEAKERS)]
IDS = ["a/b", "c,d", 'e"f', "g", "h", "i", "j", "k"]


@pytest.fixture(scope="module")
def evaluation():
    """Log-posteriors of 0 to 9 windows of eight sentences."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 0, 5, 1, 0])
    counts = torch.tensor([4, 1, 9, 0, 3, 2, 0, 1])
    sentence = torch.repeat_interleave(counts)
    scores = torch.randn(len(sentence), SPEAKERS)
    scores[torch.arange(len(sentence)), labels[sentence]] += 1.0
    scores = scores.log_softmax(-1)
    empty_row = torch.tensor([1, 0, 1, 1, 0, 0, 0, 1]).bool()
    return labels, sentence, scores, empty_row


def naive(labels, sentence, scores, empty_row=None):
    """(frame errors, decisions) of the sentences that have rows."""
    frame_errors, decisions = {}, {}
    for i, label in enumerate(labels.tolist()):
        rows = scores[sentence == i].numpy()
        if empty_row is not None and empty_row[i]:
            rows = np.concatenate([rows, np.zeros((1, SPEAKERS))])
        if len(rows):
            frame_errors[i] = np.mean([r.argmax() != label for r in rows])
            decisions[i] = int(rows.sum(0).argmax())
    return frame_errors, decisions


def filled(labels, sentence, scores, empty_row=None, batch_size=4):
    errors = SentenceErrors(labels, empty_row)
    for s, x in zip(sentence.split(batch_size), scores.split(batch_size)):
        errors.append(s, x)
    return errors


@pytest.mark.parametrize("with_empty_row", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_errors(evaluation, with_empty_row, batch_size):
    labels, sentence, scores, empty_row = evaluation
    empty_row = empty_row if with_empty_row else None
    frame_errors, decisions = naive(labels, sentence, scores, empty_row)
    wrong = [decisions[i] != labels[i].item() for i in decisions]
    errors = filled(labels, sentence, scores, empty_row, batch_size)
    summary = errors.summarize()
    assert summary == {
        "frame_error": pytest.approx(
            100 * np.mean(list(frame_errors.values()))
        ),
        "sentence_error": pytest.approx(100 * np.mean(wrong)),
    }
    assert 0 < summary["sentence_error"] < 100
    for field, value in summary.items():
        assert errors.summarize(field) == value


def test_means_are_over_sentences_and_not_over_windows():
    errors = SentenceErrors(torch.tensor([0, 0]))
    good, bad = [-0.1, -3.0], [-3.0, -0.1]
    errors.append(torch.tensor([0, 1, 1, 1]), torch.tensor([bad] + [good] * 3))
    assert errors.summarize() == {"frame_error": 50.0, "sentence_error": 50.0}


def test_a_sentence_is_decided_by_sums_and_not_by_votes():
    errors = SentenceErrors(torch.tensor([1]))
    scores = torch.tensor([[-0.6, -0.8], [-0.6, -0.8], [-9.0, -0.1]])
    errors.append(torch.tensor([0, 0, 0]), scores)
    assert errors.summarize("sentence_error") == 0.0
    assert errors.summarize("frame_error") == pytest.approx(200 / 3)


def test_shapes_of_scores(evaluation):
    labels, sentence, scores, _ = evaluation
    flat = filled(labels, sentence, scores).summarize()
    assert filled(labels, sentence, scores[:, None]).summarize() == flat


@pytest.mark.parametrize("with_empty_row", [False, True])
def test_csv(evaluation, tmp_path, with_empty_row):
    labels, sentence, scores, empty_row = evaluation
    empty_row = empty_row if with_empty_row else None
    frame_errors, decisions = naive(labels, sentence, scores, empty_row)
    path = tmp_path / "new" / "sentences.csv"
    errors = filled(labels, sentence, scores, empty_row)
    errors.write_csv(path, IDS, NAMES)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "sentence",
        "speaker",
        "decision",
        "score",
        "margin",
        "frame_error",
    ]
    assert [row["sentence"] for row in rows] == [IDS[i] for i in frame_errors]
    for row, i in zip(rows, frame_errors):
        assert row["speaker"] == NAMES[labels[i]]
        assert row["decision"] == NAMES[decisions[i]]
        mean = np.zeros(SPEAKERS)
        if (sentence == i).any():
            mean = scores[sentence == i].numpy().mean(0)
        best = np.sort(mean)[::-1]
        assert float(row["score"]) == pytest.approx(best[0], abs=1e-4)
        assert float(row["margin"]) == pytest.approx(
            best[0] - best[1], abs=1.1e-4
        )
        assert float(row["frame_error"]) == pytest.approx(
            100 * frame_errors[i], abs=1e-3
        )
    # The file tells the same as the summary.
    wrong = [row["speaker"] != row["decision"] for row in rows]
    summary = errors.summarize()
    assert summary["sentence_error"] == pytest.approx(100 * np.mean(wrong))
    assert summary["frame_error"] == pytest.approx(
        np.mean([float(row["frame_error"]) for row in rows]), abs=1e-3
    )


def test_one_speaker(tmp_path):
    errors = SentenceErrors(torch.tensor([0]))
    errors.append(torch.tensor([0]), torch.zeros(1, 1))
    errors.write_csv(tmp_path / "a.csv", ["x"], ["ann"])
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == (
        "x,ann,ann,0.0000,0.0000,0.000"
    )


def test_nothing_but_empty_rows(tmp_path):
    # Every sentence exactly one window long, counted as released.
    labels = torch.tensor([0, 1, 2, 0])
    errors = SentenceErrors(labels, torch.ones(4, dtype=torch.bool))
    assert errors.summarize() == {"frame_error": 50.0, "sentence_error": 50.0}
    errors.write_csv(tmp_path / "a.csv", IDS, NAMES)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[2] == '"c,d",spk1,spk0,0.0000,0.0000,100.000'
    assert len(lines) == 5


def test_zeros_are_decided_for_speaker_0_among_many(tmp_path):
    labels = torch.tensor([0, 7])
    errors = SentenceErrors(labels, torch.tensor([True, False]))
    scores = torch.randn(1, 462).log_softmax(-1)
    errors.append(torch.tensor([1]), scores)
    names = [str(i) for i in range(462)]
    errors.write_csv(tmp_path / "a.csv", IDS, names)
    decision = (tmp_path / "a.csv").read_text().splitlines()[1].split(",")[2]
    assert decision == "0"


def test_no_sentence(tmp_path):
    errors = SentenceErrors(torch.tensor([], dtype=torch.int64))
    assert all(math.isnan(v) for v in errors.summarize().values())
    errors.write_csv(tmp_path / "a.csv", [], NAMES)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1
