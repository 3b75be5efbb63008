"""The public names as a caller uses them: `make types` checks this file."""

import io
from pathlib import Path

import numpy as np
import torch
from typing_extensions import assert_type

from amsincnet_sb import (
    AMSoftmax,
    CosineClassifier,
    MarginWarmup,
    SincConv,
    SincFeatures,
    SincNet,
    SincTDNN,
    SpeakerIdentifier,
    register,
)
from amsincnet_sb.inference import Candidate


def uses() -> None:
    """Never called."""
    register()
    net = SincNet(fc_neurons=[64, 32], cnn_pools=(3, 3, 3))
    who = SpeakerIdentifier(net, CosineClassifier(32, 2), ["ann", "bob"])
    assert_type(who.identify("a.wav"), list[Candidate])
    assert_type(who.identify(Path("a.wav"), threshold=0.3), list[Candidate])
    assert_type(who.identify(io.BytesIO()), list[Candidate])
    assert_type(who.identify((np.zeros(3), 8000)), list[Candidate])
    assert_type(who.identify([torch.zeros(3)]), list[list[Candidate]])
    assert_type(who.embed("a.wav"), torch.Tensor)
    assert_type(who.verify("a.wav", "b.wav").accepted, bool)
    assert_type(SincConv().cutoffs_hz(), tuple[torch.Tensor, torch.Tensor])
    SpeakerIdentifier.from_results("results", device="cuda").save()
    SpeakerIdentifier(SincTDNN(), CosineClassifier(2048, 2), ("ann", "bob"))
    MarginWarmup(AMSoftmax(margin=0.2), warmup_steps=100)
    SincFeatures(win_length=25).filters()
    who.identify(7)  # type: ignore[call-overload]
    AMSoftmax("0.2")  # type: ignore[arg-type]
