"""The straightforward port that the fast paths are timed against.

Layer after layer as one would first write it: plain torch, ``F.conv1d``,
everything in memory between two layers.
"""

import sys
from pathlib import Path

import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.lobes.sincnet import SincNet  # noqa: E402
from amsincnet_sb.nnet import fast_cpu  # noqa: E402


class PlainSincNet(SincNet):
    """SincNet with every layer by itself."""

    def cnn(self, windows):
        """As :meth:`SincNet.cnn`."""
        x = self.sinc(self.input_norm(windows)).abs()
        layers = zip([None, *self.convs], self.cnn_pools, self.cnn_norms)
        for conv, pool, norm in layers:
            x = F.max_pool1d(conv(x) if conv else x, pool)
            x = F.leaky_relu(norm(x), self.negative_slope)
        return x.flatten(1)


class FastCpuSincNet(SincNet):
    """SincNet on the CPU path, whatever the network itself would choose."""

    def cnn(self, windows):
        """As :meth:`SincNet.cnn`."""
        norm = self.input_norm
        return fast_cpu.cnn(
            windows,
            (norm.weight, norm.bias),
            self.sinc.filters(),
            [(conv.weight, conv.bias) for conv in self.convs],
            [(each.weight, each.bias) for each in self.cnn_norms],
            self.cnn_pools,
            norm.eps,
            self.negative_slope,
        )
