"""metrics.jsonl survives kills and rewinds."""

import json
import os

import pytest

from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError

RECORDS = [
    {"epoch": 1, "step": 100, "split": "test", "frame_error": 50.125},
    {"epoch": 2, "step": 200, "split": "tëst\n", "frame_error": 1e-7},
    {"epoch": 2, "step": 200, "split": "valid", "frame_error": 0.0},
    {"epoch": 3, "step": 300, "split": "test", "frame_error": 33.0},
]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        log.append(**record)
    return log


def lines(log):
    with open(log.path, encoding="utf-8") as file:
        return file.read().splitlines()


def test_one_json_object_per_line(log):
    assert [json.loads(line) for line in lines(log)] == RECORDS
    assert MetricsLog(log.path).records() == RECORDS


def test_an_evaluation_done_again_replaces_its_record(log):
    log.append(epoch=2, step=200, split="valid", seconds=3.0)
    log.append(epoch=2, step=200, split="valid", frame_error=7.0, seconds=1.0)
    again = {**RECORDS[2], "seconds": 3.0, "frame_error": 7.0}
    assert log.records() == [*RECORDS[:2], RECORDS[3], again]


def test_evaluations_of_a_step_share_the_figures_of_its_training(log):
    """Resumed behind its last step, a run does not know them any more."""
    log.append(epoch=4, step=400, split="valid", train_loss=2.0, loss=1.0)
    log.append(epoch=4, step=400, split="test", loss=3.0)
    log.append(epoch=4, step=401, split="test", loss=4.0)
    assert [r.get("train_loss") for r in log.records()[-3:]] == [2.0, 2.0, None]
    assert log.records()[-2]["loss"] == 3.0


def test_no_file_no_records(tmp_path):
    log = MetricsLog(tmp_path / "none.jsonl")
    assert log.records() == []
    log.rewind(5)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("step, kept", [(99, 0), (100, 1), (250, 3), (999, 4)])
def test_rewind(log, step, kept):
    with open(log.path, "a") as file:
        file.write('{"epoch": 4, "st')  # as a killed process leaves it
    log.rewind(step)
    assert [json.loads(line) for line in lines(log)] == RECORDS[:kept]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_truncated_last_line(log, cut):
    with open(log.path, "rb+") as file:
        file.truncate(os.path.getsize(log.path) - cut)
    assert log.records() == RECORDS[:-1]
    log.append(**RECORDS[-1])
    assert log.records() == RECORDS


@pytest.mark.parametrize("line", ["{", "oops", "3", "null", "[1]", ""])
def test_a_bad_line_is_named(log, line):
    text = lines(log)
    text[1] = line
    with open(log.path, "w") as file:
        file.write("\n".join(text) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
        log.records()
