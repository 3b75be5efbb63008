"""A training step of SincNet, written for CPUs.

``cnn`` is the same function as :meth:`amsincnet_sb.lobes.sincnet.SincNet.cnn`,
several times as fast, with a backward pass written by hand. Four things make
it so:

1. *Half the arithmetic.* The sinc filters are symmetric and pooling looks at
   ``p`` neighbouring outputs. The first and last of those, ``y`` and ``y'``,
   are the sum and the difference of a symmetric filter's output ``e`` and an
   antisymmetric one's ``o``, each of which needs one product for two samples
   (the fold); and since ``max(|e + o|, |e - o|) = |e| + |o|``, the maximum
   needs neither ``y`` nor ``y'``. What remains is a dense product at the
   pooled rate: no padding, no wasted output, and the gradient after pooling
   goes back through ``e`` and ``o`` by their signs.
2. *Slices.* A few windows at a time go through all layers, so that the maps
   between them stay in the cache and the allocator reuses their memory.
3. *Time-major maps*, ``[batch, time, channels]``: oneDNN's fastest layout,
   in which pooling and the statistics over time work on whole vectors.
4. *oneDNN for every product*, also for those that torch leaves to the BLAS
   library in float32: on some processors that one is half as fast.

:mod:`.maps` sends slices through :mod:`.network`, whose sinc layer is
:mod:`.folding`; SincTDNN has :mod:`.strided_conv`.
"""

from amsincnet_sb.kernels.cpu.maps import cnn, frozen_cnn, sinc_map
from amsincnet_sb.kernels.cpu.onednn_linear import frozen_linear, linear
from amsincnet_sb.kernels.cpu.strided_conv import conv, frozen_conv

__all__ = [
    "cnn",
    "conv",
    "frozen_cnn",
    "frozen_conv",
    "frozen_linear",
    "linear",
    "sinc_map",
]
