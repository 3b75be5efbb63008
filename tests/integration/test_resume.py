"""Interrupted and started again, a run ends as if nothing had happened."""

import os
import shutil
import signal

import pytest
import torch

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.training.signals import STOPPED

HPARAMS = "am_sincnet_m005.yaml"
# The margin still rises at the end of the first epoch.
LONGER = {"batches_per_epoch": 4, "total_steps": 40}
EVERY_STEP = {**LONGER, "ckpt_interval_steps": 1}


def stop():
    """Somebody pressed Ctrl-C."""
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    """Two epochs of four steps, with a checkpoint after every step."""
    output = tmp_path_factory.mktemp("uninterrupted") / "results"
    return recipe(HPARAMS, output, **EVERY_STEP)


def assert_same(recipe, one, other):
    """All results are equal, bit for bit."""
    assert recipe.state(one) == recipe.state(other)
    assert recipe.metrics(one) == recipe.metrics(other)
    assert recipe.sentences(one) == recipe.sentences(other)
    wave = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    answers = [
        SpeakerIdentifier.from_results(x).identify(wave) for x in (one, other)
    ]
    assert answers[0] == answers[1]


def at(step):
    return lambda brain, *_, **__: brain.optimizer_step == step


def in_validation(step):
    return lambda brain, stage, *_, **__: (
        "VALID" in str(stage) and brain.optimizer_step == step
    )


def second_epoch(brain, stage, epoch=None):
    return epoch == 2


@pytest.mark.parametrize(
    "method, when, after",
    [
        ("on_stage_start", second_epoch, False),  # between two epochs
        ("on_fit_batch_start", at(2), False),
        ("on_fit_batch_start", at(4), False),
        ("on_fit_batch_start", at(7), False),
        ("_fit_valid", at(4), False),  # before the evaluation of an epoch
        ("on_stage_end", in_validation(8), False),  # in the middle of it
        ("report", at(4), True),  # after the record, before the checkpoint
    ],
)
def test_interrupted(recipe, uninterrupted, tmp_path, method, when, after):
    output = tmp_path / "results"
    with recipe.hooked(method, when, stop, after):
        with pytest.raises(SystemExit) as ended:
            recipe(HPARAMS, output, **EVERY_STEP)
    assert ended.value.code == 130
    recipe(HPARAMS, output, **EVERY_STEP)
    assert_same(recipe, output, uninterrupted)


def test_a_finished_run_stays_as_it_is(recipe, finished, tmp_path):
    """And removes what a kill at its end has left."""
    output = recipe(HPARAMS, tmp_path / "results")
    (last,) = (output / "save").glob("CKPT*")
    older = shutil.copytree(last, last.with_name("CKPT+2020-01-01+00-00-00+00"))
    (older / "CKPT.yaml").write_text(
        "end-of-epoch: true\nunixtime: 1600000000.0\n"
    )
    shutil.copytree(last, last.with_name(f".{last.name}.unfinished"))
    recipe(HPARAMS, output, test_only=True)
    assert older.exists()
    recipe(HPARAMS, output)
    assert [path.name for path in (output / "save").glob("*CKPT*")] == [
        last.name
    ]
    assert_same(recipe, output, finished)


@pytest.mark.parametrize(
    "name, method, when",
    [
        ("SIGTERM", "on_fit_batch_start", at(6)),
        ("SIGINT", "on_fit_batch_start", at(1)),
        ("SIGTERM", "evaluate_batch", at(4)),  # within a validation
        ("SIGTERM", "report", at(4)),  # between its end and the checkpoint
        ("SIGINT", "report", at(8)),  # after the last step
    ],
)
def test_signal(recipe, uninterrupted, tmp_path, name, method, when):
    """Saves at once, without any other checkpoints, and says so."""
    output = tmp_path / "results"
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def send():
        os.kill(os.getpid(), signal.Signals[name])

    with recipe.hooked(method, when, send):
        with pytest.raises(SystemExit) as stopped:
            recipe(HPARAMS, output, **LONGER)
    assert stopped.value.code == STOPPED == 75
    assert f"by {name}; started again, it goes on" in (
        output / "log.txt"
    ).read_text(encoding="utf-8")
    assert not (output / "sentences.csv").exists()
    assert handlers == [
        signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)
    ]
    recipe(HPARAMS, output, **LONGER)
    assert_same(recipe, output, uninterrupted)
