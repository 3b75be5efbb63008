"""``--start_from``: a run goes on from the weights of a finished one."""

import json
import shutil

import pytest
import torch

from amsincnet_sb.inference.pretrained import read_pretrained

HPARAMS = "am_sincnet_m005.yaml"
STILL = {"lr": 1e-30, "lr_final": 0}  # weights stay as they are at the start


def weights(folder):
    """Name -> parameter, of network and classifier."""
    network, classifier, _ = read_pretrained(folder)
    return {**dict(network.named_parameters()), "class": classifier.weight}


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(
        map(torch.allclose, *map(dict.values, (a, b)))
    )


def recorded(output):
    return json.loads((output / "save" / "run.json").read_text())["start"]


def test_another_margin_and_then_without_the_first(
    recipe, refused, finished, tmp_path
):
    """What a resumed run started from is neither loaded again nor needed."""
    source = shutil.copytree(finished, tmp_path / "source")
    output = tmp_path / "results"
    options = {"margin": 0.3, "number_of_epochs": 1, "start_from": source}
    recipe("am_sincnet.yaml", output, **options, **STILL)
    assert same(output, source)
    config = json.loads((source / "pretrained" / "config.json").read_text())
    assert recorded(output) == config["weights"]
    assert recorded(source) == ""
    for other in (None, output):
        sentence = refused(
            "am_sincnet.yaml", **{**options, "start_from": other}, **STILL
        )
        assert "a run that started from other weights" in sentence
    source.rename(tmp_path / "gone")
    options["number_of_epochs"] = 2
    recipe("am_sincnet.yaml", output, **options, **STILL)
    assert [record["epoch"] for record in recipe.metrics(output)] == [1, 2]
    assert recorded(output) == config["weights"]


@pytest.mark.parametrize(
    "start, words",
    [
        (None, "cnn_channels is [4, 4, 4] there and [4, 4, 5] here"),
        ("nowhere", "nowhere is not a folder"),
    ],
)
def test_what_it_cannot_start_from(refused, finished, tmp_path, start, words):
    options = {"cnn_channels": "[4,4,5]", "start_from": start or finished}
    assert words in refused(HPARAMS, **options)
    assert not (tmp_path / "results" / "hyperparams.yaml").exists()
