"""The layers on GPUs, as a few Triton kernels each.

A layer of SincNet is convolution, magnitude (sinc layer), max-pooling,
normalisation over time and LeakyReLU. Three things make it fast:

* tensor cores: the sinc layer is a block-Toeplitz GEMM (a block of outputs is
  a banded matrix times a piece of the signal), the others are implicit GEMMs;
* the feature maps before pooling, the largest tensors of the network, are
  never written in the forward pass: pooling happens in registers;
* statistics, gain, shift and LeakyReLU are one kernel forward and two
  backward.

Arithmetic is in bfloat16 under bfloat16 autocast; in TF32 where
``torch.set_float32_matmul_precision`` allows it; otherwise as three TF32
matmuls, which is float32's accuracy. Sums are in float32 always. No kernel
uses atomics: results repeat bit for bit.

:mod:`.feature_maps` is made of the layers :mod:`.sinc_layer` and
:mod:`.pooled_conv`, these of :mod:`.launch` and :mod:`.norm`, which launch the
kernels of :mod:`.triton_matmul` and :mod:`.triton_reductions`; SincTDNN has
:mod:`.strided_conv`. :mod:`.adamw` and :mod:`.restore`, of a training step,
launch those of :mod:`.triton_tables`.
"""

import zlib
from pathlib import Path

import torch

from amsincnet_sb.kernels.cuda.feature_maps import cnn, frozen_cnn, sinc_map
from amsincnet_sb.kernels.cuda.linear_layer import frozen_linear, linear
from amsincnet_sb.kernels.cuda.norm import statistics
from amsincnet_sb.kernels.cuda.strided_conv import conv, frozen_conv
from amsincnet_sb.kernels.cuda.support import supports


def _tag_compiled():
    """Keep programs compiled with other versions of the operators apart.

    torch.compile caches programs between runs under the names of the operators
    alone, and would not notice that an operator's gradient has changed.
    """
    config = getattr(torch.compiler, "config", None)
    if not hasattr(config, "cache_key_tag"):  # an older PyTorch
        return
    sources = sorted(Path(__file__).parent.glob("*.py"))
    tag = f"amsincnet-{zlib.crc32(b''.join(s.read_bytes() for s in sources))}"
    if tag not in config.cache_key_tag:
        config.cache_key_tag += tag


_tag_compiled()
