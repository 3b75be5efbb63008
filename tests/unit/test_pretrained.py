"""Folders of trained models: the same outputs, and no trust in their bytes."""

import errno
import json
import os
import pickle
import shutil

import pytest
import torch

from amsincnet_sb.inference import pretrained
from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ["ann", "bob's", "zoë => 1"]


@pytest.fixture
def net(small):
    torch.manual_seed(0)
    net = SincNet(**small, dropout=0.5, negative_slope=0.1, min_low_hz=20.0)
    net(torch.randn(8, 200))  # moves the statistics of BatchNorm
    return net.eval()


@pytest.fixture
def classifier():
    return CosineClassifier(16, 3).eval()


@pytest.fixture
def folder(net, classifier, tmp_path):
    folder = tmp_path / "pretrained"
    write_pretrained(folder, net, classifier, SPEAKERS, scale=30.0)
    return folder


def message(folder):
    with pytest.raises(InputError) as error:
        read_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder, key, value):
    """Change config.json; a dotted key reaches inside."""
    path = folder / "config.json"
    config = inner = json.loads(path.read_text())
    *outer, last = key.split(".")
    for name in outer:
        inner = inner[name]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(config))


# Round trips -----------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, scale", [(CosineClassifier, 30.0), (SoftmaxClassifier, 1.0)]
)
def test_round_trip(net, tmp_path, kind, scale):
    classifier, folder = kind(16, 3).eval(), tmp_path / "pretrained"
    write_pretrained(folder, net, classifier, SPEAKERS, scale=30.0)
    found = read_pretrained(tmp_path)
    assert type(found[0]) is SincNet and type(found[1]) is kind
    assert found[0].arguments == net.arguments
    assert found[2]["speakers"] == SPEAKERS
    assert found[2]["scale"] == scale
    for module in found[:2]:
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    x = torch.randn(3, 500)
    assert torch.equal(found[0](x), net(x))
    assert torch.equal(found[1](found[0](x)), classifier(net(x)))


def test_a_moved_folder_and_an_overwritten_one(folder, small, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert read_pretrained(moved)[2]["speakers"] == SPEAKERS
    (moved / "notes.txt").write_text("mine")
    (moved / "model.safetensors").write_text("of another model")
    other = SincNet(**small).train()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    write_pretrained(moved, other, CosineClassifier(16, 2), ["c", "d"])
    # Writing changes nothing in the model.
    assert other.training
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    found = read_pretrained(moved)
    x = torch.randn(1, 200)
    assert torch.equal(found[0](x), other.eval()(x))
    assert found[2]["speakers"] == ["c", "d"]
    assert sorted(os.listdir(moved)) == [
        "README.md",
        "classifier.ckpt",
        "config.json",
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "label_encoder.ckpt",
        "notes.txt",
    ]


def test_a_model_that_is_replaced_while_it_is_read(folder, small, monkeypatch):
    """Network, classifier and names are those of one model."""
    other = SincNet(**small).eval(), CosineClassifier(16, 3).eval()
    load, names = pretrained._load_weights, ["c", "d", "e"]

    def replacing(module, name, *others):
        load(module, name, *others)
        if names and name == "embedding_model":
            write_pretrained(folder, *other, names.copy())
            names.clear()

    monkeypatch.setattr(pretrained, "_load_weights", replacing)
    net, classifier, config = read_pretrained(folder)
    assert config["speakers"] == ["c", "d", "e"]
    x = torch.randn(1, 200)
    assert torch.equal(classifier(net(x)), other[1](other[0](x)))


def test_a_full_disk_keeps_the_old_model(
    folder, net, classifier, tmp_path, monkeypatch
):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space"):
        write_pretrained(folder, net, classifier, ["x", "y", "z"])
    assert read_pretrained(folder)[2]["speakers"] == SPEAKERS
    assert os.listdir(tmp_path) == ["pretrained"]


# Damage; tests/integration/test_untrusted.py has files that would execute -----


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "classifier.ckpt"])
def test_missing_damaged_and_foreign_weights(folder, name):
    path = folder / name
    good, whole = torch.load(path), path.read_bytes()
    path.unlink()
    assert name in message(folder)
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        whole[:-30],
        pickle.dumps({"weight": [1, 2]}, protocol=2),
    ):
        path.write_bytes(content)
        assert name in message(folder)
    first = next(iter(good))
    for state in (
        {},
        [1, 2],
        torch.zeros(3),
        {k: v for k, v in good.items() if k != first},
        {**good, "extra": torch.zeros(1)},
        {**good, first: torch.zeros(1, 2, 3)},
        {**good, first: "text"},
    ):
        torch.save(state, path)
        assert name in message(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"{}", b"\xff\xfe", b"[" * 9999],
)
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "write it again by training or importing" in message(folder)


BAD = {
    "embedding_model": [None, [1], KeyError],
    "embedding_model.window": ["200", -5, 200.5, None],
    "embedding_model.hop": [0, "x"],
    "embedding_model.fc_neurons": [[], 8, [12, -8]],
    "embedding_model.cnn_channels": [[4]],
    "embedding_model.cnn_pools": [[0, 3]],
    "embedding_model.sample_rate": [0],
    "embedding_model.dropout": ["x"],
    "embedding_model.unknown": [1],
    "classifier": ["CosineClassifier"],
    "classifier.name": ["os.system", ["CosineClassifier"]],
    "classifier.input_size": ["8", -8, KeyError],
    "network": ["os.system", ["SincNet"], None],
    "speakers": [
        None,
        3,
        KeyError,
        ["a\x1b[2J", "b", "c"],
        ["a\nb", "b", "c"],
    ],
    "scale": ["much", None, [30]],
    "own_cosine": ["x", None],
}
OF_ANOTHER_MODEL = {
    "embedding_model.fc_neurons": [[32, 17]],
    "embedding_model.window": [300],
    "embedding_model.cnn_channels": [[5, 6]],
    "speakers": [["ann"], []],
    "classifier.name": ["SoftmaxClassifier"],
    "classifier.input_size": [17],
}


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        (key, value, complaint)
        for table, complaint in (
            (BAD, "config.json does not describe a model"),
            (OF_ANOTHER_MODEL, "does not hold the weights"),
        )
        for key, values in table.items()
        for value in values
    ],
)
def test_config_with_bad_values(folder, key, value, complaint):
    change(folder, key, value)
    assert complaint in message(folder)


def test_a_later_version(folder):
    change(folder, "format", KeyError)
    assert read_pretrained(folder)
    change(folder, "format", 2)
    assert "later version (format 2); update amsincnet_sb" in message(folder)


def test_speakers_are_text(folder):
    change(folder, "speakers", [1, 2, 3])
    assert read_pretrained(folder)[2]["speakers"] == ["1", "2", "3"]
