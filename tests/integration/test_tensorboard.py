"""TensorBoard is an option: its logs, and the sentence where it is missing."""

import sys

import pytest


def points(folder):
    """(step, value) by tag, of all processes that wrote there."""
    from tensorboard.backend.event_processing import event_accumulator

    found = {}
    for path in sorted(folder.iterdir()):
        events = event_accumulator.EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(
                (event.step, event.value) for event in events.Scalars(tag)
            )
    return found


def test_evaluations_are_at_their_steps(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    for epochs in (1, 2):  # the second process goes on
        recipe(
            "am_sincnet.yaml",
            tmp_path,
            tensorboard="True",
            number_of_epochs=epochs,
        )
    records = recipe.metrics(tmp_path)
    found = points(tmp_path / "tensorboard")
    for tag, key in (
        ("frame_error/test", "frame_error"),
        ("loss/train", "train_loss"),
    ):
        for record in records:
            value = pytest.approx(record[key], rel=1e-5)
            assert (record["step"], value) in found[tag]


def test_where_it_is_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(tensorboard="True")
