"""Every hyperparameter file: it builds what its name says, and it trains."""

import json
import math
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.nnet.losses import nll_loss
from torch.nn import ModuleDict

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.augmentation import RandomMixture
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.training.hparams import load_recipe, plain_options

HPARAMS = Path(__file__).parents[2] / "hparams"
MARGINS = {f"am_sincnet_m{m:03}.yaml": m / 100 for m in range(5, 100, 5)}
OTHERS = {
    "am_sincnet.yaml",
    "am_sincnet_original.yaml",
    "demo.yaml",
    "quick.yaml",
    "sinc_tdnn.yaml",
    "sinc_tdnn_robust.yaml",
    "sincnet.yaml",
    "sincnet_original.yaml",
}


def load(name, **overrides):
    """By HyperPyYAML alone, from the file's text and a data folder."""
    text = (HPARAMS / name).read_text()
    overrides = {"data_folder": "/TIMIT", **overrides}
    if "!include:" in text:
        overrides = {"recipe": overrides}
    with open(HPARAMS / name) as file:
        hparams = load_hyperpyyaml(file, overrides)
    return hparams.get("recipe", hparams)


def flat(name, **overrides):
    """Key -> value with all references resolved; tags are values too."""
    overrides = {"data_folder": "/TIMIT", "output_folder": "/out", **overrides}
    leaves = {}

    def walk(key, value):
        tag = getattr(getattr(value, "tag", None), "value", None)
        if tag:
            leaves[f"{key}.class"] = tag
        if isinstance(value, dict):
            for inner, x in value.items():
                walk(f"{key}.{inner}".lstrip("."), x)
        elif not tag:
            leaves[key] = list(value) if isinstance(value, list) else value

    walk("", plain_options(str(HPARAMS / name), overrides))
    return leaves


def differing(one, other):
    """Keys with other values, without the copies of a module elsewhere."""
    one, other = flat(one), flat(other)
    return {
        key
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
        and not key.startswith(("modules.", "checkpointer.recoverables."))
    }


def test_the_files_are_these():
    assert {p.name for p in HPARAMS.glob("*.yaml")} == OTHERS | set(MARGINS)


class TestHyperPyYAMLAlone:
    """No code of ours but the classes that the yaml names."""

    @pytest.fixture(autouse=True)
    def results_elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("name", ["am_sincnet.yaml", *MARGINS])
    def test_am_sincnet(self, name):
        """SincNet, cosines, and the additive margin of the file's name."""
        hparams = load(name)
        margin = MARGINS.get(name, 0.3)
        network, loss = hparams["embedding_model"], hparams["compute_cost"]
        assert network is hparams["modules"]["embedding_model"]
        assert type(network) is SincNet
        assert type(hparams["classifier"]) is CosineClassifier
        assert type(loss) is AMSoftmax
        assert loss.margin.item() == pytest.approx(margin)
        assert loss.scale == 30.0
        schedule = hparams["margin_schedule"]
        assert schedule(0) == 0.0 and schedule(10**9) == margin
        folder = f"results/am_sincnet/m{margin:g}/1234"
        assert hparams["output_folder"] == folder
        assert hparams["save_folder"] == f"{folder}/save"
        # The published architecture.
        assert network.arguments["cnn_channels"] == [80, 60, 60]
        assert network.arguments["fc_neurons"] == [2048, 2048, 2048]
        modules = ModuleDict(hparams["modules"])
        parameters = sum(p.numel() for p in modules.parameters())
        assert round(parameters / 1e6, 1) == 22.8

    @pytest.mark.parametrize(
        "name, network, classifier, loss",
        [
            ("sincnet.yaml", SincNet, SoftmaxClassifier, nll_loss),
            ("sincnet_original.yaml", SincNet, SoftmaxClassifier, nll_loss),
            (
                "am_sincnet_original.yaml",
                SincNet,
                SoftmaxClassifier,
                ReleasedAMSoftmax,
            ),
            ("sinc_tdnn.yaml", SincTDNN, CosineClassifier, AMSoftmax),
            ("sinc_tdnn_robust.yaml", SincTDNN, CosineClassifier, AMSoftmax),
            ("demo.yaml", SincTDNN, CosineClassifier, AMSoftmax),
            ("quick.yaml", SincTDNN, CosineClassifier, AMSoftmax),
        ],
    )
    def test_others(self, name, network, classifier, loss):
        """Each builds what its name says."""
        hparams = load(name)
        assert type(hparams["embedding_model"]) is network
        assert type(hparams["classifier"]) is classifier
        made = hparams["compute_cost"]
        assert loss in (made, type(made), getattr(made, "func", None))


@pytest.mark.parametrize("name", MARGINS)
def test_a_margin_file_is_three_lines(name):
    text = (HPARAMS / name).read_text().splitlines()
    assert [line for line in text if not line.startswith("#")] == [
        f"margin: {MARGINS[name]:.2f}",
        "recipe: !include:am_sincnet.yaml",
        "    margin: !ref <margin>",
    ]


def test_sincnet_differs_from_am_sincnet_in_the_loss_alone():
    assert differing("am_sincnet.yaml", "sincnet.yaml") == {
        "experiment",
        "margin",
        "scale",
        "margin_schedule.class",
        "margin_schedule.final",
        "margin_schedule.ramp_steps",
        "loss",
        "subcentres",
        "compute_scores.class",
        "compute_scores.loss",
        "compute_scores.scale",
        "classifier.class",
        "classifier.loss",
        "classifier.subcentres",
        "compute_cost.class",
        "compute_cost.loss",
        "compute_cost.margin",
        "compute_cost.scale",
    }


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_options_of_the_augmentation_reach_it(name):
    """In files that include another and have one of their own, too."""
    if "original" in name:  # which have none
        return
    given = {
        "sample_rate": 8000,
        "equalizer_std_db": 9.0,
        "mixture_probability": 0.5,
    }
    needed = {"data_folder": "/TIMIT", "output_folder": "/out"}
    hparams = load_recipe(str(HPARAMS / name), {**needed, **given})
    parts = [*hparams["augment"].modules()]
    rates = {p.sample_rate for p in parts if hasattr(p, "sample_rate")}
    assert rates <= {8000}
    assert [p.std_db for p in parts if hasattr(p, "std_db")] == [9.0]
    mixtures = [p for p in parts if isinstance(p, RandomMixture)]
    assert [p.probability for p in mixtures] == [0.5]


def test_how_sinc_tdnn_differs_from_am_sincnet():
    """In the network, the margin, and what is against learning by heart."""
    found = differing("am_sincnet.yaml", "sinc_tdnn.yaml")
    network = {key for key in found if key.startswith("embedding_model.")}
    keys = {key.split(".")[1] for key in network} - {"class"}
    size = {"embedding_size", "classifier.input_size"}
    margin = {"margin", "compute_cost.margin", "margin_schedule.final"}
    heart = {"splice_probability", "weight_decay", "opt_class.weight_decay"}
    assert found == network | keys | size | margin | heart | {"experiment"}


def test_the_original_is_the_published_experiment():
    original = flat("am_sincnet_original.yaml")
    assert (
        original["number_of_epochs"] * original["batches_per_epoch"] == 288000
    )
    assert original["batch_size"] == 128
    assert (original["lr"], original["opt_class.alpha"]) == (0.001, 0.95)
    assert original["opt_class.class"] == "!name:torch.optim.RMSprop"
    assert original["augment.class"] == "!new:torch.nn.Identity"
    assert original["released_evaluation"] and original["released_init"]
    assert not original["linear_embedding"] and original["dropout"] == 0
    assert differing("am_sincnet_original.yaml", "sincnet_original.yaml") == {
        "experiment",
        "compute_cost.class",
        "compute_cost.margin",
        "compute_cost.scale",
    }


def test_a_debug_run_leaves_results_alone(recipe, tmp_path):
    output = recipe("am_sincnet.yaml", tmp_path / "results")
    kept = ("metrics.jsonl", "sentences.csv", "pretrained/classifier.ckpt")
    kept += ("hyperparams.yaml",)
    before = [(output / name).read_bytes() for name in kept]
    recipe("am_sincnet.yaml", output, debug=True, number_of_epochs=3)
    assert "debug: True" in (output / "train_log.txt").read_text()
    assert [(output / name).read_bytes() for name in kept] == before


# Those with a margin in their name differ in that line alone.
@pytest.mark.parametrize("name", [*sorted(OTHERS), "am_sincnet_m095.yaml"])
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
    softmax = name.startswith("sincnet") or "original" in name
    kind = "SoftmaxClassifier" if softmax else "CosineClassifier"
    assert config["classifier"]["name"] == kind
    assert config["scale"] == (1.0 if softmax else 30.0)
    has_margin = "margin" in config["training"]["settings"]
    assert has_margin != name.startswith("sincnet")
    assert len(config["speakers"]) == 4
