"""Classifiers against numpy."""

import numpy as np
import torch

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier


def test_cosines():
    torch.manual_seed(0)
    classify = CosineClassifier(input_size=7, out_neurons=4).double()
    x = torch.randn(5, 1, 7, dtype=torch.float64)
    y = classify(x).detach()
    assert y.shape == (5, 1, 4)
    rows, weights = x[:, 0].numpy(), classify.weight.detach().numpy()
    norms = np.linalg.norm(rows, axis=1)[:, None]
    norms = norms * np.linalg.norm(weights, axis=1)
    np.testing.assert_allclose(y[:, 0], rows @ weights.T / norms, atol=1e-12)


def test_an_embedding_of_zeros_has_no_direction():
    classify = CosineClassifier(6, 3)
    x = torch.zeros(2, 1, 6, requires_grad=True)
    y = classify(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 1, 3))
    assert x.grad.isfinite().all()


def test_log_probabilities_under_autocast():
    """As exact as cosines are; rounded ones were 0.03 beside."""
    classify = SoftmaxClassifier(64, 462)
    x = torch.randn(8, 1, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = classify(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.exp().sum(-1), torch.ones(8, 1), rtol=1e-5, atol=1e-5
    )
