"""The evaluation behind training: once where training ends with it."""

import os
import signal
from collections import Counter

import pytest
import speechbrain as sb

from amsincnet_sb.training.signals import STOPPED
from amsincnet_sb.training.stoppable import StoppableBrain

HPARAMS = "am_sincnet_m005.yaml"
HELD_OUT = {"validation_sentences": 1}


@pytest.fixture
def evaluated(recipe, monkeypatch):
    """Stage -> batches that were evaluated."""
    brain, count = recipe.module.SpeakerBrain, Counter()
    evaluate_batch = brain.evaluate_batch

    def counted(self, batch, stage):
        count[stage] += 1
        return evaluate_batch(self, batch, stage)

    monkeypatch.setattr(brain, "evaluate_batch", counted)
    return count


def left_behind(recipe, output):
    """All that a run writes, but for clocks and places."""
    return (
        recipe.state(output),
        recipe.metrics(output),
        (output / "train_log.txt").read_text(),
        (output / "sentences.csv").read_text(),
        (output / "pretrained" / "config.json").read_text(),
    )


def test_nothing_else_comes_of_it(recipe, evaluated, monkeypatch, tmp_path):
    """Against the same run that evaluates the last weights twice."""
    options = {"windows_per_batch": 7, "seed": 3}
    once = recipe(HPARAMS, tmp_path / "once", **options)
    assert sb.Stage.TEST not in evaluated
    brain = recipe.module.SpeakerBrain
    monkeypatch.setattr(brain, "evaluate", StoppableBrain.evaluate)
    twice = recipe(HPARAMS, tmp_path / "twice", **options)
    assert evaluated[sb.Stage.TEST] == evaluated[sb.Stage.VALID] // 4 > 1
    assert left_behind(recipe, once) == left_behind(recipe, twice)


def test_a_loss_does_not_depend_on_batches(recipe, tmp_path):
    """The last one is a small one."""
    for size in (7, 256):
        output = recipe(HPARAMS, tmp_path / str(size), windows_per_batch=size)
        found = [record["loss"] for record in recipe.metrics(output)]
        if size == 7:
            expected = found
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_finished_run_is_evaluated_again(recipe, evaluated, tmp_path):
    output = recipe(HPARAMS, tmp_path / "results")
    before = left_behind(recipe, output)
    for again in ({}, {"test_only": True}):
        evaluated.clear()
        (output / "sentences.csv").unlink()
        recipe(HPARAMS, output, **again)
        assert evaluated[sb.Stage.TEST] > 0 == evaluated[sb.Stage.VALID]
        after = left_behind(recipe, output)
        assert (*before[:2], *before[3:]) == (*after[:2], *after[3:])


def test_a_signal_within_it(recipe, evaluated, monkeypatch, tmp_path):
    """With validation sentences it is of other utterances."""
    whole = recipe(HPARAMS, tmp_path / "whole", **HELD_OUT)
    assert evaluated[sb.Stage.TEST] > 0 < evaluated[sb.Stage.VALID]
    output = tmp_path / "results"
    brain = recipe.module.SpeakerBrain
    evaluate_batch = brain.evaluate_batch

    def interrupted(self, batch, stage):
        if stage == sb.Stage.TEST:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_batch(self, batch, stage)

    with monkeypatch.context() as patch:
        patch.setattr(brain, "evaluate_batch", interrupted)
        with pytest.raises(SystemExit) as stopped:
            recipe(HPARAMS, output, **HELD_OUT)
    assert stopped.value.code == STOPPED
    assert "by SIGTERM; started again" in (output / "log.txt").read_text()
    assert not (output / "sentences.csv").exists()
    recipe(HPARAMS, output, **HELD_OUT)
    assert recipe.state(output) == recipe.state(whole)
    assert recipe.metrics(output) == recipe.metrics(whole)
    assert recipe.sentences(output) == recipe.sentences(whole)
