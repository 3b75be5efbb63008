"""Every hyperparameter file: it differs where it should, and it trains."""

import json
import math
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from amsincnet_sb.training.hparams import plain_options, resolve_overlay

HPARAMS = Path(__file__).parents[2] / "hparams"
MARGINS = [5 * i for i in range(1, 20)]  # per cent
OVERLAYS = [f"am_sincnet_m{margin:03}.yaml" for margin in MARGINS]
ALL = ["am_sincnet.yaml", "released.yaml", "sincnet.yaml", "demo.yaml"]
ALL += OVERLAYS

# What lies in the results folder.
PATHS = {
    "label_encoder_file",
    "output_folder",
    "save_folder",
    "train_log",
    "metrics_file",
    "sentences_file",
    "curves_file",
    "pretrained_folder",
    "train_annotation",
    "valid_annotation",
    "test_annotation",
    "train_logger.save_file",
    "checkpointer.checkpoints_dir",
}


def flat(name, **overrides):
    """Key -> value with all references resolved; classes are values, too."""
    overrides = {"data_folder": "TIMIT", **overrides}
    options = plain_options(*resolve_overlay(HPARAMS / name, overrides))
    leaves = {}

    def walk(key, value):
        tag = getattr(getattr(value, "tag", None), "value", None)
        if isinstance(value, dict):
            if tag is not None:
                leaves[f"{key}.class"] = tag
            for inner, x in value.items():
                walk(f"{key}.{inner}".lstrip("."), x)
        elif isinstance(value, list):
            leaves[key] = list(value)
        elif tag is not None:
            leaves[f"{key}.class"] = tag
        else:
            leaves[key] = value

    walk("", options)
    return leaves


def differing(one, other):
    return {
        key
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    }


def test_the_files_are_these():
    assert sorted(p.name for p in HPARAMS.glob("*.yaml")) == sorted(ALL)


@pytest.mark.parametrize("margin, name", list(zip(MARGINS, OVERLAYS)))
def test_an_overlay_changes_its_margin_alone(margin, name):
    base, overlay = flat("am_sincnet.yaml"), flat(name)
    if margin == 30:  # the recommended one
        assert not differing(base, overlay)
    else:
        assert differing(base, overlay) == PATHS | {
            "margin",
            "margin_schedule.final",
            "compute_cost.margin",
        }
    assert overlay["margin"] == margin / 100
    assert overlay["margin_schedule.final"] == margin / 100
    assert overlay["compute_cost.margin"] == margin / 100
    assert overlay["output_folder"] == (
        f"results/am_sincnet/m{margin / 100:g}/1234"
    )
    for key in PATHS:
        of_base = base[key].replace("/m0.3/", f"/m{margin / 100:g}/")
        assert overlay[key] == of_base
    text, of_base = (
        YAML().load(HPARAMS / file) for file in (name, "am_sincnet.yaml")
    )
    assert set(text) == {"base", "margin", "data_folder", "output_folder"}
    # These two make the file one that SpeechBrain's own checks can load.
    assert text["data_folder"].tag.value == "!PLACEHOLDER"
    assert text["output_folder"].value == of_base["output_folder"].value
    load_hyperpyyaml(
        (HPARAMS / name).read_text(),
        {"data_folder": "TIMIT", "output_folder": "results"},
    )


def test_released_differs_from_the_recommended_recipe_in_these():
    same_place = {"output_folder": "results"}
    recommended = flat("am_sincnet.yaml", **same_place)
    released = flat("released.yaml", **same_place)
    # Another network, which has other keys; the rest differs in these.
    changed = {
        key
        for key in differing(recommended, released)
        if "embedding_model." not in key
    }
    network = {
        *("sinc_channels", "sinc_kernel_size", "sinc_pool", "log_floor"),
        *("tdnn_channels", "tdnn_kernel_sizes", "tdnn_strides", "band_mask"),
        *("cnn_channels", "cnn_kernel_sizes", "cnn_pools"),
        *("linear_embedding", "released_init", "dropout", "fc_neurons"),
    }
    assert changed - network == {
        "margin",
        "compute_cost.margin",
        "margin_schedule.class",
        "margin_schedule.final",
        "margin_schedule.ramp_steps",
        "lr_final",
        "lr_schedule.final",
        "lr_schedule.warmup_steps",
        "cutoff_lr_factor",
        "opt_class.class",
        "opt_class.fused",
        "opt_class.weight_decay",
        "opt_class.alpha",
        "opt_class.eps",
        "equalizer_std_db",
        "mixture_probability",
        "augment",
        "released_evaluation",
        "compute_scores.scale",
        "precision",
        "classifier.class",
        "modules.classifier.class",
        "checkpointer.recoverables.classifier.class",
        "compute_cost.class",
    }
    assert released["embedding_model.class"].endswith("sincnet.SincNet")
    assert recommended["embedding_model.class"].endswith("sinc_tdnn.SincTDNN")
    # The released configuration in full is in its own tests; these are what
    # the published experiment says of itself.
    assert (
        released["number_of_epochs"] * released["batches_per_epoch"] == 288000
    )
    assert released["batch_size"] == 128
    assert (released["lr"], released["opt_class.alpha"]) == (0.001, 0.95)
    assert released["opt_class.class"] == "!name:torch.optim.RMSprop"
    assert released["fc_neurons"] == [2048, 2048, 2048]


def test_sincnet_differs_from_released_in_its_loss():
    assert differing(flat("released.yaml"), flat("sincnet.yaml")) == PATHS | {
        "compute_cost.class",
        "compute_cost.margin",
        "compute_cost.scale",
    }


def test_demo_differs_in_its_sizes():
    same_place = {"output_folder": "results"}
    changed = differing(
        flat("am_sincnet.yaml", **same_place), flat("demo.yaml", **same_place)
    )
    sizes = {"sinc_channels", "tdnn_channels", "fc_neurons"}
    models = (
        "embedding_model",
        "modules.embedding_model",
        "checkpointer.recoverables.embedding_model",
    )
    classifiers = (
        "classifier",
        "modules.classifier",
        "checkpointer.recoverables.classifier",
    )
    assert changed == {
        "number_of_epochs",
        "batches_per_epoch",
        "batch_size",
        "valid_interval",
        "total_steps",
        "epoch_counter.limit",
        "checkpointer.recoverables.counter.limit",
        "margin_schedule.ramp_steps",
        "lr_schedule.total_steps",
        "lr_schedule.warmup_steps",
        "embedding_size",
        *sizes,
        *(f"{model}.{key}" for model in models for key in sizes),
        *(f"{classifier}.input_size" for classifier in classifiers),
    }


def test_a_debug_run_leaves_results_alone(recipe, tmp_path):
    output = recipe("am_sincnet.yaml", tmp_path / "results")
    kept = ("metrics.jsonl", "sentences.csv", "pretrained/classifier.ckpt")
    before = [(output / name).read_bytes() for name in kept]
    recipe("am_sincnet.yaml", output, debug=True)
    assert [(output / name).read_bytes() for name in kept] == before


@pytest.mark.parametrize("name", ALL)
def test_a_debug_epoch(name, recipe, tmp_path):
    output = recipe(
        name,
        tmp_path / "results",
        debug=True,
        debug_epochs=1,
        debug_persistently=True,
    )
    (record,) = recipe.metrics(output)
    assert (record["epoch"], record["step"]) == (1, 2)
    for key in ("train_loss", "loss", "frame_error", "sentence_error"):
        assert math.isfinite(record[key])
    config = json.loads((output / "pretrained" / "config.json").read_text())
    released = name in ("released.yaml", "sincnet.yaml")
    kind = "SoftmaxClassifier" if released else "CosineClassifier"
    assert config["classifier"]["name"] == kind
    assert config["scale"] == (1.0 if released else 30.0)
    assert len(config["speakers"]) == 4
