"""Our classes under SpeechBrain's names, without touching SpeechBrain's."""

import copy
import importlib
import pickle
import sys
import types

import pytest
import speechbrain.nnet.losses
import torch
from hyperpyyaml import load_hyperpyyaml

import amsincnet_sb
from amsincnet_sb.lobes import registration
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.features import SincFeatures
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.losses import AMSoftmax, MarginWarmup, ReleasedAMSoftmax

NAMES = {
    "speechbrain.lobes.models.AMSincNet": [
        SincNet,
        CosineClassifier,
        SoftmaxClassifier,
    ],
    "speechbrain.lobes.features": [SincFeatures],
    "speechbrain.nnet.losses": [AMSoftmax, ReleasedAMSoftmax, MarginWarmup],
}

YAML = """
__register: !apply:amsincnet_sb.register
net: !new:speechbrain.lobes.models.AMSincNet.SincNet
    window: 200
    cnn_channels: [4]
    cnn_kernel_sizes: [21]
    cnn_pools: [3]
    fc_neurons: [8]
classifier: !new:speechbrain.lobes.models.AMSincNet.CosineClassifier
    input_size: 8
    out_neurons: 3
cost: !new:speechbrain.nnet.losses.MarginWarmup
    loss: !new:speechbrain.nnet.losses.AMSoftmax
        margin: 0.25
    warmup_steps: 10
features: !new:speechbrain.lobes.features.SincFeatures
    out_channels: 4
"""


def test_names():
    amsincnet_sb.register()
    for module, kinds in NAMES.items():
        for kind in kinds:
            found = getattr(importlib.import_module(module), kind.__name__)
            assert found is kind
            assert kind.__module__.startswith("amsincnet_sb.")


def test_idempotent_and_nothing_else_is_touched():
    amsincnet_sb.register()
    modules = [importlib.import_module(name) for name in NAMES]
    before = [dict(vars(module)) for module in modules]
    amsincnet_sb.register()
    assert [dict(vars(module)) for module in modules] == before
    assert [importlib.import_module(name) for name in NAMES] == modules


def test_speechbrains_own_losses_stay(monkeypatch):
    losses = speechbrain.nnet.losses
    ours = {"AMSoftmax", "ReleasedAMSoftmax", "MarginWarmup"}
    for name in ours:
        monkeypatch.delattr(losses, name, raising=False)
    monkeypatch.delitem(
        sys.modules, "speechbrain.lobes.models.AMSincNet", raising=False
    )
    before = dict(vars(losses))
    amsincnet_sb.register()
    after = dict(vars(losses))
    assert set(after) - set(before) == ours
    assert all(after[name] is value for name, value in before.items())


def test_never_overwrites(monkeypatch):
    theirs = object()
    monkeypatch.setattr(
        speechbrain.nnet.losses, "AMSoftmax", theirs, raising=False
    )
    with pytest.raises(RuntimeError, match="losses.AMSoftmax exists already"):
        amsincnet_sb.register()
    assert speechbrain.nnet.losses.AMSoftmax is theirs


def test_a_module_that_is_there_but_broken_is_not_replaced(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'k2'", name="k2")

    fake = types.SimpleNamespace(import_module=broken)
    monkeypatch.setattr(registration, "importlib", fake)
    with pytest.raises(ModuleNotFoundError, match="k2"):
        registration._module("speechbrain.lobes.models.Something")
    assert "speechbrain.lobes.models.Something" not in sys.modules


def test_yaml():
    hparams = load_hyperpyyaml(YAML)
    assert type(hparams["net"]) is SincNet
    assert type(hparams["classifier"]) is CosineClassifier
    assert type(hparams["cost"]) is MarginWarmup
    assert type(hparams["features"]) is SincFeatures
    x = hparams["net"](torch.randn(2, 200))
    loss = hparams["cost"](hparams["classifier"](x), torch.tensor([[0], [2]]))
    assert loss.isfinite()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(hparams["net"])))
    assert type(twin) is SincNet
