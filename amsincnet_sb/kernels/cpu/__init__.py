"""The layers on CPUs, several times as fast as the plain form.

Five things make it so:

1. *Half the arithmetic.* The sinc filters are symmetric and pooling looks at
   ``p`` neighbouring outputs. The first and last of those, ``y`` and ``y'``,
   are the sum and the difference of a symmetric filter's output ``e`` and an
   antisymmetric one's ``o``, each of which needs one multiplication for two
   samples (the fold); and since ``max(|e + o|, |e - o|) = |e| + |o|``, the
   maximum needs neither ``y`` nor ``y'``. What remains is a dense matmul at
   the pooled rate: no padding, no wasted output, and the gradient after
   pooling goes back through ``e`` and ``o`` by their signs.
2. *Slices.* A few waveforms at a time go through all layers, so that the
   feature maps between them stay in the cache and the allocator reuses their
   memory.
3. *Time-major feature maps*, ``[batch, time, channels]``: oneDNN's fastest
   layout, in which pooling and the statistics over time work on whole vectors.
4. *oneDNN for every matmul*, also for those that torch leaves to the BLAS
   library in float32, which is half as fast on some CPUs.
5. *Half of the multiplications* of wide convolutions of three taps, in
   float32: :mod:`.winograd`.

:mod:`.feature_maps` sends slices through :mod:`.slices`, whose sinc layer is
:mod:`.folding`; SincTDNN has :mod:`.strided_conv`.
"""

from amsincnet_sb.kernels.cpu.feature_maps import cnn, frozen_cnn, sinc_map
from amsincnet_sb.kernels.cpu.linear_layer import frozen_linear, linear
from amsincnet_sb.kernels.cpu.strided_conv import conv, frozen_conv
from amsincnet_sb.nnet.pooling import statistics
