"""Frame and sentence error against loops over utterances."""

import csv
import math

import numpy as np
import pytest
import torch

from amsincnet_sb.training.metrics import SentenceErrors

SPEAKERS = 6
NAMES = [f"spk{i}" for i in range(SPEAKERS)]
IDS = ["a/b", "c,d", 'e"f', "g", "h", "i", "j", "k"]
HEADER = ["sentence", "speaker", "decision", "score", "margin", "frame_error"]


@pytest.fixture(params=[False, True], ids=["", "empty_row"])
def evaluation(request):
    """Log-posteriors of 0 to 9 windows of eight utterances."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 0, 5, 1, 0])
    counts = torch.tensor([4, 1, 9, 0, 3, 2, 0, 1])
    utterance = torch.repeat_interleave(counts)
    scores = torch.randn(len(utterance), SPEAKERS)
    scores[torch.arange(len(utterance)), labels[utterance]] += 1.0
    scores = scores.log_softmax(-1)
    empty_row = torch.tensor([1, 0, 1, 1, 0, 0, 0, 1]).bool()
    return labels, utterance, scores, empty_row if request.param else None


def by_loop(labels, utterance, scores, empty_row):
    """(frame errors, decisions) of the utterances that have windows."""
    frame_errors, decisions = {}, {}
    for i, label in enumerate(labels.tolist()):
        windows = scores[utterance == i].numpy()
        if empty_row is not None and empty_row[i]:
            windows = np.concatenate([windows, np.zeros((1, SPEAKERS))])
        if len(windows):
            frame_errors[i] = np.mean([w.argmax() != label for w in windows])
            decisions[i] = int(windows.sum(0).argmax())
    return frame_errors, decisions


def filled(labels, utterance, scores, empty_row=None, batch_size=4):
    errors = SentenceErrors(labels, empty_row)
    for u, x in zip(utterance.split(batch_size), scores.split(batch_size)):
        errors.append(u, x)
    return errors


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_errors(evaluation, batch_size):
    labels, utterance, scores, empty_row = evaluation
    frame_errors, decisions = by_loop(*evaluation)
    wrong = [decisions[i] != labels[i].item() for i in decisions]
    errors = filled(*evaluation, batch_size)
    summary = errors.summarize()
    assert summary == {
        "frame_error": pytest.approx(
            100 * np.mean(list(frame_errors.values()))
        ),
        "sentence_error": pytest.approx(100 * np.mean(wrong)),
    }
    assert 0 < summary["sentence_error"] < 100
    again = filled(labels, utterance, scores[:, None], empty_row)
    assert again.summarize() == summary


def written(errors, folder, ids=IDS, names=NAMES):
    path = folder / "new" / "sentences.csv"
    errors.write_csv(path, ids, names)
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == HEADER
    return rows


def test_csv(evaluation, tmp_path):
    labels, utterance, scores, _ = evaluation
    frame_errors, decisions = by_loop(*evaluation)
    errors = filled(*evaluation)
    rows = written(errors, tmp_path)
    assert [row["sentence"] for row in rows] == [IDS[i] for i in frame_errors]
    for row, i in zip(rows, frame_errors):
        assert row["speaker"] == NAMES[labels[i]]
        assert row["decision"] == NAMES[decisions[i]]
        mean = np.zeros(SPEAKERS)
        if (utterance == i).any():
            mean = scores[utterance == i].numpy().mean(0)
        best = np.sort(mean)[::-1]
        found = [float(row[name]) for name in HEADER[3:]]
        assert found[:2] == pytest.approx(
            [best[0], best[0] - best[1]], abs=1.1e-4
        )
        assert found[2] == pytest.approx(100 * frame_errors[i], abs=1e-3)


def test_nothing_but_empty_rows(tmp_path):
    """Their zeros are decided for label 0, of however many."""
    errors = SentenceErrors(torch.tensor([0, 7]), torch.tensor([True, False]))
    errors.append(torch.tensor([1]), torch.randn(1, 462).log_softmax(-1))
    rows = written(errors, tmp_path, names=[str(i) for i in range(462)])
    assert rows[0]["decision"] == "0"
    # There is no runner-up of one.
    errors = SentenceErrors(torch.tensor([0]))
    errors.append(torch.tensor([0]), torch.zeros(1, 1))
    (row,) = written(errors, tmp_path, ["x"], ["ann"])
    assert [*row.values()] == ["x", "ann", "ann", "0.0000", "0.0000", "0.000"]


def test_no_utterance(tmp_path):
    errors = SentenceErrors(torch.tensor([], dtype=torch.int64))
    assert all(math.isnan(v) for v in errors.summarize().values())
    assert written(errors, tmp_path, []) == []
