"""Weights that are NaN or infinite replace no checkpoint and no model."""

import pytest

from amsincnet_sb.nnet import losses, schedules


@pytest.fixture
def trained(recipe, tmp_path):
    return recipe("sinc_tdnn.yaml", tmp_path / "results", number_of_epochs=1)


def files(folder):
    return {
        path: path.read_bytes()
        for name in ("save", "pretrained")
        for path in (folder / name).rglob("*")
        if path.is_file() and path.name != "run.json"  # has the new epochs
    }


def test_an_update_that_overflows(recipe, trained, refused, monkeypatch):
    """The epoch's last step is finite; the weights after it are not."""
    before = files(trained)
    with monkeypatch.context() as patch:
        patch.setattr(schedules.CosineSchedule, "__call__", lambda *_: 1e38)
        sentence = refused("sinc_tdnn.yaml", nonfinite_patience=9)
    assert "NaN or infinite" in sentence
    assert files(trained) == before
    recipe("sinc_tdnn.yaml", trained)  # goes on from the good one
    assert [r["epoch"] for r in recipe.metrics(trained)] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_of_one_batch_of_an_evaluation(
    recipe, trained, refused, monkeypatch, value
):
    before, forward = files(trained), losses.AMSoftmax.forward
    calls = []

    def spoilt(self, predictions, targets, length=None):
        loss = forward(self, predictions, targets, length)
        calls.append(loss)
        return loss * value if len(calls) == 2 else loss

    monkeypatch.setattr(losses.AMSoftmax, "forward", spoilt)
    sentence = refused("sinc_tdnn.yaml", test_only=True, windows_per_batch=16)
    assert "evaluation after step 3 gave a loss that is NaN" in sentence
    assert len(calls) > 2 and files(trained) == before
