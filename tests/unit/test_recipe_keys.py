"""Hyperparameter files of earlier versions, and files that lack a key."""

import re
from pathlib import Path

import pytest

from amsincnet_sb.training.hparams import load_recipe, plain_options
from amsincnet_sb.training.recipe_files import RECIPES
from amsincnet_sb.training.recipe_keys import LATER, NEEDED, check_complete

TRAIN = RECIPES / "TIMIT" / "speaker_id" / "train.py"
OLD = Path(__file__).parents[1] / "fixtures" / "results_0.1.0"


def test_the_keys_are_those_that_train_reads():
    text = TRAIN.read_text()
    read = re.findall(r'(?:options|hparams)\["(\w+)"\]', text)
    read += re.findall(r"self\.hparams\.(\w+)", text)
    read = {*read} - {"recipe"}  # a comment's
    assert read == {*LATER, *NEEDED}
    assert not LATER.keys() & {*NEEDED}


@pytest.mark.parametrize("name", ["am_sincnet", "released"])
def test_a_file_of_version_0_1_0_is_complete(name):
    path = str(OLD / name / "hyperparams.yaml")
    options = plain_options(path, {})
    check_complete(path, options)
    assert options["start_from"] == "" and options["capture_step"] is True


@pytest.mark.parametrize("included", [False, True])
def test_later_keys_can_be_given(included, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("seed: 1\nmargin: 0.1\n")
    if included:
        path = tmp_path / "new.yaml"
        path.write_text(
            "recipe: !include:old.yaml\n    seed: 2\n    tensorboard: True\n"
        )
    given = {"start_from": "/run #2", "balance_speakers": True}
    for found in (
        plain_options(str(path), given),
        load_recipe(str(path), given),
    ):
        assert found["start_from"] == "/run #2"
        assert found["balance_speakers"] is True
        assert found["tensorboard"] is included
        assert found["capture_step"] is True
