"""Training with a hyperparameter file that lacks keys."""

import re

import pytest

from amsincnet_sb.training.recipe_files import HPARAMS
from amsincnet_sb.training.recipe_keys import LATER

COMPLETE = (HPARAMS / "am_sincnet.yaml").read_text()


def without(text, *keys):
    """A file's text without some of its keys and what belongs to them."""
    for key in keys:
        text, times = re.subn(rf"(?m)^{key}:.*\n(?:[ ]+.*\n)*", "", text)
        assert times == 1, key
    return text


def test_keys_younger_than_the_file_change_nothing(recipe, finished, tmp_path):
    # They differ in the recipe of today.
    own = {"augment", "margin_schedule", "splice_probability"}
    old = tmp_path / "old.yaml"
    old.write_text(without(COMPLETE, *LATER.keys() - own))
    options = {"cnn_channels": "[4,4,4]", "cnn_kernel_sizes": "[51,5,5]"}
    results = recipe(old, tmp_path / "results", margin=0.05, **options)
    assert recipe.metrics(results) == recipe.metrics(finished)


@pytest.mark.parametrize("key", ["sentences_file", "manifest", "scale"])
def test_a_needed_key_is_named_before_anything_is_done(refused, tmp_path, key):
    old = tmp_path / "old.yaml"
    old.write_text(without(COMPLETE.replace("<scale>", "30"), key))
    sentence = refused(old)
    assert sentence.startswith(f"{old} has no key `{key}`, which training")
    assert not (tmp_path / "results").exists()
