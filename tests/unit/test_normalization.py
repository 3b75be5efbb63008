"""Normalisation over time against its formula in float64."""

import pytest
import torch

from amsincnet_sb.nnet.normalization import TimeLayerNorm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    layer = TimeLayerNorm((3, 500))
    x = (torch.randn(2, 3, 500) + 50).to(dtype)
    y = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, layer(x.float()))
