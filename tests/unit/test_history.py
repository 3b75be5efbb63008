"""metrics.jsonl survives kills, rewinds and full disks."""

import errno
import json
import os

import pytest

from amsincnet_sb.training.metrics_log import History
from amsincnet_sb.utils.errors import InputError

RECORDS = [
    {"epoch": 1, "step": 100, "split": "test", "frame_error": 50.125},
    {"epoch": 2, "step": 200, "split": "tëst\n", "frame_error": 1e-7},
    {"epoch": 2, "step": 200, "split": "valid", "frame_error": 0.0},
    {"epoch": 3, "step": 300, "split": "test", "frame_error": 33.0},
]


@pytest.fixture
def history(tmp_path):
    history = History(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        history.append(**record)
    return history


def lines(history):
    with open(history.path, encoding="utf-8") as file:
        return file.read().splitlines()


def test_one_json_object_a_line(history):
    assert [json.loads(line) for line in lines(history)] == RECORDS
    assert History(history.path).records() == RECORDS


def test_the_same_evaluation_again_takes_its_place(history):
    # What a test of a finished run cannot know is kept.
    history.append(epoch=2, step=200, split="valid", seconds=3.0)
    history.append(epoch=2, step=200, split="valid", frame_error=7.0)
    again = {**RECORDS[2], "seconds": 3.0, "frame_error": 7.0}
    assert history.records() == [*RECORDS[:2], RECORDS[3], again]


def test_no_file_no_records(tmp_path):
    history = History(tmp_path / "none.jsonl")
    assert history.records() == []
    history.rewind(5)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "step, kept", [(0, 0), (99, 0), (100, 1), (250, 3), (300, 4), (999, 4)]
)
def test_rewind(history, step, kept):
    history.rewind(step)
    assert history.records() == RECORDS[:kept]
    assert len(lines(history)) == kept


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_truncated_last_line(history, cut):
    with open(history.path, "rb+") as file:
        file.truncate(os.path.getsize(history.path) - cut)
    assert history.records() == RECORDS[:-1]
    # What comes next does not get glued to it.
    history.append(**RECORDS[-1])
    assert history.records() == RECORDS


def test_rewind_removes_a_truncated_last_line(history):
    with open(history.path, "a") as file:
        file.write('{"epoch": 4, "st')
    history.rewind(200)
    assert [json.loads(line) for line in lines(history)] == RECORDS[:3]


@pytest.mark.parametrize("line", ["{", "oops", "3", "null", "[1]", ""])
def test_a_bad_line_is_named(history, line):
    text = lines(history)
    text[1] = line
    with open(history.path, "w") as file:
        file.write("\n".join(text) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
        history.records()


def test_a_full_disk_keeps_what_there_is(history, monkeypatch):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(InputError, match="No space"):
            history.append(step=400)
        with pytest.raises(InputError, match="No space"):
            history.rewind(100)
    assert history.records() == RECORDS
