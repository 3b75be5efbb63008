"""Silence is a number like any other: losses and gradients stay finite."""

import pytest
import torch

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.augmentation import RandomEqualizer, RandomMixture
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("network", [SincNet, SincTDNN])
@pytest.mark.parametrize(
    "head, loss",
    [(CosineClassifier, AMSoftmax), (SoftmaxClassifier, ReleasedAMSoftmax)],
)
@pytest.mark.parametrize("silent", [1, 8])
def test_training_on_silence(device, fast, network, head, loss, silent):
    """One silent chunk in a batch, and nothing but silence."""
    torch.manual_seed(0)
    net = network(fast=fast, fc_neurons=[16, 16]).to(device)
    head, loss = head(16, 3).to(device), loss(0.3).to(device)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    augment = torch.nn.Sequential(RandomEqualizer(), RandomMixture())
    labels = torch.arange(8, device=device) % 3
    for _ in range(2):
        wavs = 0.1 * torch.randn(8, 3200, device=device)
        wavs[:silent] = 0
        optimizer.zero_grad()
        value = loss(head(net(augment(wavs))), labels)
        value.backward()
        assert value.isfinite()
        for parameter in parameters:
            assert parameter.grad.isfinite().all()
        optimizer.step()
    scores = head(net.eval()(torch.zeros(1, 3200, device=device)))
    assert scores.isfinite().all()
    for buffer in net.buffers():
        assert buffer.isfinite().all()
