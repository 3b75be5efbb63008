"""Training for so many minutes: the number of steps is measured once."""

import json
import subprocess
import sys
import time

import pytest

from amsincnet_sb.training.budget import Budget, epochs_within

# What the file says itself.
OWN = {"number_of_epochs": None, "valid_interval": None}


def steps(output):
    """Those that a run's record and its last evaluation tell."""
    options = json.loads((output / "save" / "run.json").read_text())["options"]
    return options["number_of_epochs"], options["batches_per_epoch"]


@pytest.fixture(scope="module")
def quick(recipe, tmp_path_factory):
    """A run of two minutes by a clock on which a step takes a second."""
    output = tmp_path_factory.mktemp("quick") / "results"
    brain = recipe.module.SpeakerBrain
    measure = brain.measure_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            brain,
            "measure_step",
            lambda *given: measure(*given) and 1.0,
        )
        recipe("quick.yaml", output, minutes=2, **OWN)
    return output


def test_as_many_steps_as_fit(recipe, quick):
    epochs, length = steps(quick)
    assert epochs > 10 and length == 3
    assert 90 < epochs * length < 117  # what is left behind the start
    last = recipe.metrics(quick)[-1]
    assert (last["epoch"], last["step"]) == (epochs, epochs * length)


def test_the_same_number_of_steps_gives_the_same_model(recipe, quick, tmp_path):
    """Measuring leaves no trace; schedules are those of that many steps."""
    again = tmp_path / "again"
    tiny = [*recipe.small, "cnn_channels", "cnn_kernel_sizes"]
    options = {**dict.fromkeys(tiny), "precision": "fp32"}
    recipe(quick / "hyperparams.yaml", again, **options)
    assert steps(again) == steps(quick)
    assert recipe.metrics(again) == recipe.metrics(quick)
    before, after = recipe.state(quick), recipe.state(again)
    assert before.keys() == after.keys()
    assert before == after


def test_a_continued_run_keeps_its_number(recipe, quick):
    before = steps(quick), recipe.metrics(quick)
    recipe("quick.yaml", quick, minutes=60, **OWN)
    assert (steps(quick), recipe.metrics(quick)) == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"minutes": 5}, "give one of them"),
        ({"minutes": "long", "number_of_epochs": None}, "minutes is 'long'"),
    ],
)
def test_what_cannot_be_is_said(recipe, refused, tmp_path, options, words):
    output = tmp_path / "results"
    assert words in refused("sinc_tdnn.yaml", output_folder=output, **options)


@pytest.mark.parametrize("interval", [1, 2, 10**6])
@pytest.mark.parametrize("step", [0.001, 0.3, 40.0])
def test_steps_and_evaluations_fill_the_time(step, interval):
    epochs, length = epochs_within(900, step, 7.0, 100, interval)
    evaluations = -(-epochs // interval)
    took = epochs * length * step + evaluations * 7.0
    assert 900 * 0.93 - step < took < 900 * 1.02


def test_a_late_start_leaves_a_quarter_to_train():
    budget = Budget(1, time.time() - 100, "", {}, None)
    recipe = {"batches_per_epoch": 50, "valid_interval": 10}
    assert budget._fit(0.1, 7.0, 3.0, recipe) == (2, 71)


@pytest.mark.parametrize("test", [0.0, 12.0])
def test_the_end_is_within_the_time(test):
    """Of two minutes one is over, 5 s are for the files, a part is left."""
    budget = Budget(2, time.time() - 60, "", {}, None)
    recipe = {"batches_per_epoch": 1000, "valid_interval": 10**6}
    epochs, length = budget._fit(0.1, 4.0, test, recipe)
    most = (51.0 - test) * 0.96
    assert most - 0.2 < epochs * length * 0.1 <= most


def test_a_process_knows_when_it_started():
    code = (
        "import time; time.sleep(1); from amsincnet_sb.training.budget import"
    )
    code += " process_start; print(process_start())"
    before = time.time()
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert before - 0.1 < float(told.stdout) < before + 0.9
