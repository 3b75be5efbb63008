"""Our classes under SpeechBrain's names, without touching SpeechBrain's."""

import importlib
import sys

import pytest
import speechbrain.nnet.losses

import amsincnet_sb

MODELS = "speechbrain.lobes.models.AMSincNet"
LOSSES = "speechbrain.nnet.losses"
NAMES = {
    MODELS: ["SincNet", "SincTDNN", "CosineClassifier", "SoftmaxClassifier"],
    "speechbrain.lobes.features": ["SincFeatures"],
    LOSSES: ["AMSoftmax", "ReleasedAMSoftmax", "MarginWarmup"],
}


def test_only_our_names_are_added_and_once(monkeypatch):
    for name in NAMES[LOSSES]:
        monkeypatch.delattr(speechbrain.nnet.losses, name, raising=False)
    monkeypatch.delitem(sys.modules, MODELS, raising=False)
    theirs = dict(vars(speechbrain.nnet.losses))

    for _ in range(2):
        amsincnet_sb.register()
        after = vars(speechbrain.nnet.losses)
        assert after.keys() - theirs.keys() == set(NAMES[LOSSES])
        assert all(after[name] is value for name, value in theirs.items())
    for module, names in NAMES.items():
        for name in names:
            kind = getattr(importlib.import_module(module), name)
            assert kind.__name__ == name
            assert kind.__module__.startswith("amsincnet_sb.")


def test_never_overwrites(monkeypatch):
    theirs = object()
    monkeypatch.setattr(
        speechbrain.nnet.losses, "AMSoftmax", theirs, raising=False
    )
    with pytest.raises(RuntimeError, match="losses.AMSoftmax exists already"):
        amsincnet_sb.register()
    assert speechbrain.nnet.losses.AMSoftmax is theirs
