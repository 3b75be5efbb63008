"""Folders of trained models: the same outputs, and no trust in their bytes."""

import ast
import errno
import json
import os
import pickle
import shutil

import pytest
import torch

from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ["ann", "bob's", "zoë => 1"]
SMALL = {
    "window": 200,
    "hop": 50,
    "cnn_channels": [4, 3],
    "cnn_kernel_sizes": [21, 5],
    "cnn_pools": [3, 3],
    "fc_neurons": [12, 8],
    "linear_embedding": True,
    "dropout": 0.5,
    "negative_slope": 0.1,
    "min_low_hz": 20.0,
}


def models(kind=CosineClassifier):
    torch.manual_seed(0)
    net = SincNet(**SMALL)
    net(torch.randn(8, 200))  # moves the statistics of its normalisations
    return net.eval(), kind(8, 3).eval()


@pytest.fixture
def folder(tmp_path):
    write_pretrained(tmp_path / "pretrained", *models(), SPEAKERS, scale=30.0)
    return tmp_path / "pretrained"


def message(folder):
    with pytest.raises(InputError) as error:
        read_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder, **changes):
    """Change config.json; a dotted key reaches inside."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        inner = config
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
@pytest.mark.parametrize("from_results", [False, True])
def test_round_trip(tmp_path, kind, scale, from_results):
    net, classify = models(kind)
    folder = tmp_path / "pretrained"
    write_pretrained(folder, net, classify, SPEAKERS, scale=30.0)
    found = read_pretrained(tmp_path if from_results else str(folder))
    assert type(found[0]) is SincNet and type(found[1]) is kind
    assert found[0].arguments == net.arguments
    assert found[2]["speakers"] == SPEAKERS
    assert found[2]["scale"] == scale
    for module in found[:2]:
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    x = torch.randn(3, 500)
    assert torch.equal(found[0](x), net(x))
    assert torch.equal(found[1](found[0](x)), classify(net(x)))


def test_a_moved_folder_and_an_overwritten_one(folder, tmp_path):
    torch.manual_seed(1)
    other, classify = SincNet(**SMALL).eval(), CosineClassifier(8, 2)
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert read_pretrained(moved)[2]["speakers"] == SPEAKERS
    (moved / "stale.txt").write_text("x")
    write_pretrained(moved, other, classify, ["c", "d"])
    found = read_pretrained(moved)
    x = torch.randn(1, 200)
    assert torch.equal(found[0](x), other(x))
    assert found[2]["speakers"] == ["c", "d"]
    assert sorted(os.listdir(moved)) == [
        "classifier.ckpt",
        "config.json",
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "label_encoder.ckpt",
    ]


def test_models_are_not_changed_by_writing(tmp_path):
    net, classify = models()
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    write_pretrained(tmp_path / "p", net, classify, SPEAKERS)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_labels_as_speechbrain_reads_them(folder):
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    assert encoder.load_if_possible(folder / "label_encoder.ckpt")
    assert encoder.lab2ind == {name: i for i, name in enumerate(SPEAKERS)}
    text = (folder / "label_encoder.ckpt").read_text(encoding="utf-8")
    for line, name in zip(text.splitlines(), SPEAKERS):
        assert ast.literal_eval(line.rpartition(" => ")[0]) == name


def test_speechbrain_loads_it(folder):
    from speechbrain.inference.speaker import EncoderClassifier

    theirs = EncoderClassifier.from_hparams(
        source=str(folder), savedir=None, run_opts={"device": "cpu"}
    )
    net, classify = models()
    x = torch.randn(2, 450)
    # They normalise recordings before, which the network does anyway.
    embedding = theirs.encode_batch(x)
    torch.testing.assert_close(embedding, net(x), rtol=1e-3, atol=1e-4)
    scores, _, index, names = theirs.classify_batch(x)
    expected = classify(net(x)).squeeze(1)
    torch.testing.assert_close(
        scores.squeeze(1), expected, rtol=1e-3, atol=1e-4
    )
    assert names == [SPEAKERS[i] for i in expected.argmax(-1)]


def test_a_full_disk_keeps_the_old_model(folder, tmp_path, monkeypatch):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space"):
        write_pretrained(folder, *models(), ["x", "y", "z"])
    assert read_pretrained(folder)[2]["speakers"] == SPEAKERS
    assert os.listdir(tmp_path) == ["pretrained"]


# Damage and malice -----------------------------------------------------------


def test_no_model(tmp_path):
    assert "is not a folder" in message(tmp_path / "none")
    assert "no config.json" in message(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in message(tmp_path / "file")
    (tmp_path / "pretrained").mkdir()
    assert "no config.json" in message(tmp_path)


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "classifier.ckpt"])
def test_missing_and_damaged_weights(folder, name):
    path = folder / name
    whole = path.read_bytes()
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


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "classifier.ckpt"])
def test_foreign_weights(folder, name):
    good = torch.load(folder / name)
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
        torch.save(state, folder / name)
        assert name in message(folder)


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "classifier.ckpt"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_bomb_does_not_go_off(folder, tmp_path, name, how):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    with open(folder / name, "wb") as file:
        if how == "pickle":
            pickle.dump({"weight": Bomb()}, file, protocol=2)
        else:
            torch.save({"weight": Bomb()}, file)
    assert name in message(folder)
    assert not canary.exists()
    # It would have, had it been trusted.
    if how == "pickle":
        pickle.loads((folder / name).read_bytes())
    else:
        torch.load(folder / name, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"{}", b"\xff\xfe", b"[" * 9999],
)
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json does not describe a model" in message(folder)


@pytest.mark.parametrize(
    "key, value",
    [
        ("embedding_model", None),
        ("embedding_model", [1]),
        ("embedding_model", KeyError),
        ("embedding_model__window", "200"),
        ("embedding_model__window", -5),
        ("embedding_model__window", 200.5),
        ("embedding_model__window", None),
        ("embedding_model__hop", 0),
        ("embedding_model__hop", "x"),
        ("embedding_model__fc_neurons", []),
        ("embedding_model__fc_neurons", 8),
        ("embedding_model__fc_neurons", [12, -8]),
        ("embedding_model__cnn_channels", [4]),
        ("embedding_model__cnn_pools", [0, 3]),
        ("embedding_model__sample_rate", 0),
        ("embedding_model__dropout", "x"),
        ("embedding_model__unknown", 1),
        ("classifier", "CosineClassifier"),
        ("classifier__name", "os.system"),
        ("classifier__name", ["CosineClassifier"]),
        ("classifier__input_size", "8"),
        ("classifier__input_size", -8),
        ("classifier__input_size", KeyError),
        ("speakers", None),
        ("speakers", 3),
        ("speakers", KeyError),
        ("scale", "much"),
        ("scale", None),
        ("scale", [30]),
    ],
)
def test_config_with_bad_values(folder, key, value):
    change(folder, **{key: value})
    assert "config.json does not describe a model" in message(folder)


@pytest.mark.parametrize(
    "key, value",
    [
        ("embedding_model__fc_neurons", [12, 9]),
        ("embedding_model__window", 300),
        ("embedding_model__cnn_channels", [5, 3]),
        ("speakers", ["ann"]),
        ("speakers", []),
        ("classifier__name", "SoftmaxClassifier"),
        ("classifier__input_size", 9),
    ],
)
def test_config_of_another_model(folder, key, value):
    change(folder, **{key: value})
    assert "does not hold the weights" in message(folder)


def test_speakers_are_text(folder):
    change(folder, speakers=[1, 2, 3])
    assert read_pretrained(folder)[2]["speakers"] == ["1", "2", "3"]
