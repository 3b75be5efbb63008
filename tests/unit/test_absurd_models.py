"""A model with NaN, infinite or absurd values is refused when it is loaded."""

import json
import math

import numpy as np
import pytest
import torch

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.utils.errors import InputError

NAN, INF = math.nan, math.inf
SETTINGS = {
    "scale": [NAN, INF, -30.0, 0, 1e9, True],
    "own_cosine": [NAN, -INF, 7.0, True],
    "speakers": [["ann", "ann"]],
    "embedding_model.sample_rate": [0, -16000, 1, 10**9, 1e4],
    "embedding_model.window": [0, -1, 10**9],
    "embedding_model.hop": [0, -50, 10**12],
    "embedding_model.negative_slope": [NAN, -1.0, 1e30],
    "embedding_model.min_low_hz": [NAN, INF, -50.0],
    "embedding_model.min_band_hz": [1e300],
    "embedding_model.dropout": [NAN, 2.0],
}


@pytest.mark.parametrize(
    "key, value", [(k, v) for k, values in SETTINGS.items() for v in values]
)
def test_settings(saved, tmp_path, key, value):
    path = tmp_path / "pretrained" / "config.json"
    config = inner = json.loads(path.read_text())
    *outer, last = key.split(".")
    for name in outer:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError) as refused:
        SpeakerIdentifier.from_results(tmp_path)
    assert str(path) in str(refused.value) and last in str(refused.value)


@pytest.mark.parametrize("safetensors", [False, True])
@pytest.mark.parametrize(
    "part, key, value",
    [
        ("embedding_model", "sinc.low", NAN),
        ("embedding_model", "fc_norms.0.running_mean", INF),
        ("classifier", "weight", -INF),
        # Finite, and yet its root is not.
        ("embedding_model", "fc_norms.1.running_var", -1.0),
    ],
)
def test_weights(saved, tmp_path, safetensors, part, key, value):
    if safetensors:
        from safetensors.torch import load_file, save_file

        saved.save(tmp_path / "other", safetensors=True)
        path = tmp_path / "other" / "model.safetensors"
        state, key = load_file(path), f"{part}.{key}"
    else:
        path = tmp_path / "pretrained" / f"{part}.ckpt"
        state = torch.load(path)
    state[key].view(-1)[1] = value
    (save_file if safetensors else torch.save)(state, path)
    with pytest.raises(InputError, match="NaN or infinite") as refused:
        SpeakerIdentifier.from_results(path.parent)
    assert str(path.parent) in str(refused.value)
    assert value == -1 or key.removeprefix(f"{part}.") in str(refused.value)


def test_they_are_not_written_either(models, saved, tmp_path):
    net, classifier = models
    before = SpeakerIdentifier.from_results(tmp_path).speakers
    kept = classifier.weight[0, 0].item()
    classifier.weight[0, 0] = NAN
    try:
        with pytest.raises(InputError, match="classifier are NaN"):
            write_pretrained(tmp_path / "pretrained", net, classifier, "ab")
    finally:
        classifier.weight[0, 0] = kept
    assert SpeakerIdentifier.from_results(tmp_path).speakers == before


def arrays(**content):
    return lambda path: np.savez(path, **content)


def text(content):
    return lambda path: path.write_text(json.dumps(content))


ROW = np.zeros((1, 16), np.float32)
ADDITIONS = {
    "enrolled.npz": [
        arrays(speakers=["x"], vectors=ROW + NAN),
        arrays(speakers=["x"], vectors=ROW + 1e30),
        arrays(speakers=["x"], vectors=ROW[:, :9]),
        arrays(speakers=["x", "y"], vectors=ROW),
        arrays(speakers=["x", "x"], vectors=np.zeros((2, 16), "f4")),
        arrays(speakers=["ann"], vectors=ROW),  # a trained speaker
        arrays(speakers=["a\x1b[2J"], vectors=ROW),
    ],
    "cohort.npz": [
        arrays(vectors=np.full((4, 16), NAN, "f4")),
        arrays(vectors=np.full((4, 9), 0, "f4")),
        arrays(other=ROW),
    ],
    "calibration.json": [
        text({"verification": {"threshold": NAN}}),
        text({"verification": {"threshold": True}}),
        text({"identification": {"threshold": 0.1, "own_cosine": INF}}),
        text({"identification": {"threshold": 0.1, "own_cosine": 1e30}}),
        text({"verification": {}}),
    ],
}


@pytest.mark.parametrize(
    "name, write", [(k, write) for k, all in ADDITIONS.items() for write in all]
)
def test_additions(saved, tmp_path, name, write):
    path = tmp_path / "pretrained" / name
    write(path)
    with pytest.raises(InputError, match=str(path)):
        SpeakerIdentifier.from_results(tmp_path)
