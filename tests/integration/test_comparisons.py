"""Other filters and losses, as a person trains with them."""

import json

import pytest
import torch

from amsincnet_sb.inference.pretrained import read_pretrained
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.training.starting_point import StartingFilters
from amsincnet_sb.utils.errors import InputError

RUNS = {
    "sinc_tdnn.yaml": [
        {"filters": "fbank", "loss": "softmax"},
        {"filters": "fir", "loss": "aam", "subcentres": 2},
        {"filters": "gabor", "loss": "released"},
    ],
    "am_sincnet.yaml": [{"filters": "leaf"}, {"loss": "curricular"}],
}


@pytest.mark.parametrize(
    "name, options", [(n, o) for n, several in RUNS.items() for o in several]
)
def test_a_run(name, options, recipe, tmp_path):
    """It trains with what was asked for, which is in its model."""
    output = recipe(name, tmp_path / "results", number_of_epochs=1, **options)
    record = recipe.metrics(output)[-1]
    assert record["step"] == 3
    network, classifier, config = read_pretrained(output)
    assert network.arguments["filters"] == options.get("filters", "sinc")
    cosines = options.get("loss") not in ("softmax", "released")
    assert config["scale"] == (30.0 if cosines else 1.0)
    subcentres = getattr(classifier, "subcentres", 1)
    assert subcentres == options.get("subcentres", 1)
    scores = [float(r["score"]) for r in recipe.sentences(output).values()]
    assert max(scores) <= 0  # log-posteriors


def test_a_loss_with_a_state_goes_on(recipe, tmp_path):
    """Interrupted, a run ends with the same weights as in one go."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"loss": "curricular", "total_steps": 6}
    for output, epochs in ((parts, 1), (parts, 2), (whole, 2)):
        recipe("am_sincnet.yaml", output, **options, number_of_epochs=epochs)
    (state,) = parts.glob("save/CKPT*/compute_cost.ckpt")
    assert 0 < torch.load(state)["t"].abs() < 1
    ours, theirs = (read_pretrained(p) for p in (parts, whole))
    for module, other in zip(ours[:2], theirs[:2]):
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


def test_filters_of_another_run(recipe, refused, finished, tmp_path):
    """They are taken, stay where they are, and nothing else is."""
    trained = tmp_path / "trained"
    options = {"cutoff_lr_factor": 0, "filters_from": finished}
    recipe("am_sincnet.yaml", trained, **options)
    learned, again = (read_pretrained(p)[0] for p in (finished, trained))
    for name, value in learned.state_dict().items():
        same = torch.equal(again.state_dict()[name], value)
        assert same is name.startswith("sinc.") or "tracked" in name, name
    assert json.loads((trained / "save" / "run.json").read_text())[
        "start"
    ].startswith("filters ")
    other = {"filters_from": finished, "filters": "gabor"}
    rest = "4 of 51 taps at 16000 Hz, from 50 Hz and 50 Hz wide on"
    assert refused(**other) == (
        f"filters_from: the model in {finished} has other filters (sinc, {rest}, "
        f"not gabor, {rest}); give the options that it was trained with, or "
        "another model."
    )


def test_filters_that_count_from_elsewhere():
    """Their parameters are what is above the least cut-offs."""
    low, high = (SincNet(fc_neurons=[4], min_low_hz=hz) for hz in (0, 50))
    StartingFilters("m", low).check(low)
    with pytest.raises(InputError, match="from 0 Hz .*, not .* from 50 Hz"):
        StartingFilters("m", low).check(high)
