"""Interrupted and started again, a run ends as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.training.signals import STOPPED

HPARAMS = "am_sincnet_m005.yaml"
# The margin still rises at the end of the first epoch.
EVERY_STEP = {
    "ckpt_interval_steps": 1,
    "batches_per_epoch": 4,
    "total_steps": 40,
}


class Stopped(KeyboardInterrupt):
    """Somebody pressed Ctrl-C."""


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    """Two epochs of four steps, with a checkpoint after every step."""
    output = tmp_path_factory.mktemp("uninterrupted") / "results"
    return recipe(HPARAMS, output, **EVERY_STEP)


def assert_same(recipe, one, other):
    """Everything that a run leaves is equal, bit for bit."""
    assert recipe.state(one) == recipe.state(other)
    assert recipe.metrics(one) == recipe.metrics(other)
    assert recipe.sentences(one) == recipe.sentences(other)
    wave = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    answers = [
        SpeakerIdentifier.from_results(x).identify(wave) for x in (one, other)
    ]
    assert answers[0] == answers[1]


def stop(recipe, monkeypatch, output, method, when, **options):
    """Run until `when(brain, *arguments)` is true in a method of the Brain."""
    original = getattr(recipe.module.SpeakerBrain, method)

    def interrupted(self, *arguments, **keywords):
        if when(self, *arguments, **keywords):
            raise Stopped
        return original(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(recipe.module.SpeakerBrain, method, interrupted)
        with pytest.raises(Stopped):
            recipe(HPARAMS, output, **options)


def test_between_epochs(recipe, finished, tmp_path, monkeypatch):
    output = tmp_path / "results"
    stop(
        recipe,
        monkeypatch,
        output,
        "on_stage_start",
        lambda self, stage, epoch=None: epoch == 2,
    )
    assert len(recipe.metrics(output)) == 1
    recipe(HPARAMS, output)
    assert_same(recipe, output, finished)


@pytest.mark.parametrize("step", [2, 4, 7])
def test_within_an_epoch(recipe, uninterrupted, tmp_path, monkeypatch, step):
    output = tmp_path / "results"
    stop(
        recipe,
        monkeypatch,
        output,
        "on_fit_batch_start",
        lambda self, batch, should_step: self.optimizer_step == step,
        **EVERY_STEP,
    )
    recipe(HPARAMS, output, **EVERY_STEP)
    assert_same(recipe, output, uninterrupted)


@pytest.mark.parametrize(
    "method, epoch", [("_fit_valid", 1), ("on_stage_end", 2)]
)
def test_after_the_last_step_of_an_epoch(
    recipe, uninterrupted, tmp_path, monkeypatch, method, epoch
):
    """Before, and in the middle of, the evaluation that ends an epoch."""

    def when(self, *arguments, **keywords):
        evaluated = method == "_fit_valid" or "VALID" in str(arguments[0])
        return evaluated and self.optimizer_step == 4 * epoch

    output = tmp_path / "results"
    stop(recipe, monkeypatch, output, method, when, **EVERY_STEP)
    recipe(HPARAMS, output, **EVERY_STEP)
    assert_same(recipe, output, uninterrupted)


def test_after_the_record_and_before_the_checkpoint(
    recipe, uninterrupted, tmp_path, monkeypatch
):
    output = tmp_path / "results"
    report = recipe.module.SpeakerBrain.report

    def interrupted(self, epoch, split, stats):
        report(self, epoch, split, stats)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(recipe.module.SpeakerBrain, "report", interrupted)
        with pytest.raises(Stopped):
            recipe(HPARAMS, output, **EVERY_STEP)
    recipe(HPARAMS, output, **EVERY_STEP)
    assert_same(recipe, output, uninterrupted)


def test_a_finished_run_stays_as_it_is(recipe, finished, tmp_path):
    """And gets rid of what a kill at its end has left."""
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
    "name, method, step",
    [
        ("SIGTERM", "on_fit_batch_start", 6),
        ("SIGINT", "on_fit_batch_start", 1),
        ("SIGTERM", "evaluate_batch", 4),  # within a validation
        ("SIGTERM", "report", 4),  # between its end and the checkpoint
        ("SIGINT", "report", 8),  # after the last step
    ],
)
def test_signal(
    recipe, uninterrupted, tmp_path, monkeypatch, name, method, step
):
    """Saves at once, without any other checkpoints, and says so."""
    output = tmp_path / "results"
    brain = recipe.module.SpeakerBrain
    original = getattr(brain, method)
    sent = []

    def signalled(self, *arguments, **keywords):
        if self.optimizer_step == step and not sent:
            sent.append(name)
            os.kill(os.getpid(), signal.Signals[name])
        return original(self, *arguments, **keywords)

    options = {"batches_per_epoch": 4, "total_steps": 40}
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(brain, method, signalled)
        with pytest.raises(SystemExit) as stopped:
            recipe(HPARAMS, output, **options)
    assert stopped.value.code == STOPPED == 75
    assert f"by {name}; started again, it goes on" in (
        output / "log.txt"
    ).read_text(encoding="utf-8")
    assert handlers == [
        signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)
    ]
    recipe(HPARAMS, output, **options)
    assert_same(recipe, output, uninterrupted)


def test_signal_during_the_last_evaluation(
    recipe, finished, tmp_path, monkeypatch
):
    output = tmp_path / "results"
    brain = recipe.module.SpeakerBrain
    evaluate = brain.evaluate_batch

    def signalled(self, batch, stage):
        if "TEST" in str(stage):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, batch, stage)

    with monkeypatch.context() as patch:
        patch.setattr(brain, "evaluate_batch", signalled)
        with pytest.raises(SystemExit) as stopped:
            recipe(HPARAMS, output)
    assert stopped.value.code == STOPPED
    assert not (output / "sentences.csv").exists()
    recipe(HPARAMS, output)
    assert_same(recipe, output, finished)


def test_audio_in_its_files_changes_nothing(recipe, finished, tmp_path):
    output = recipe(HPARAMS, tmp_path / "results", max_resident_gb=0)
    assert_same(recipe, output, finished)


KILLED = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
import train
start = train.SpeakerBrain.on_fit_batch_start

def killed(self, batch, should_step):
    if self.optimizer_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    start(self, batch, should_step)

train.SpeakerBrain.on_fit_batch_start = killed
train.main()
"""


def test_killed(recipe, uninterrupted, tmp_path):
    output = tmp_path / "results"
    arguments = recipe.arguments(HPARAMS, output, **EVERY_STEP)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=recipe.folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            # As in this process: another number of threads adds up otherwise.
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        capture_output=True,
        timeout=300,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (output / "pretrained").exists()
    recipe(HPARAMS, output, **EVERY_STEP)
    assert_same(recipe, output, uninterrupted)
