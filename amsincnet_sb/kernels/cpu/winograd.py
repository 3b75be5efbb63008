"""Convolutions of three taps with half of the multiplications.

Four neighbouring outputs need twelve of them as written, and six where inputs
and taps are first turned into the values of polynomials at six points, 0, 1,
-1, 2, -2 and infinity: S. Winograd's minimal filtering, which A. Lavin and S.
Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, call F(4,
3), here along time. Each point is a matmul; what is added costs little where
there are many channels. It is as exact as the plain form in float32, and would
not be in less.
"""

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cpu.matmul import matmul_t

__all__ = ["TAPS", "frozen_winograd"]

TAPS = 3
_OUTPUTS, _POINTS = 4, 6  # of a tile
# Values of three taps, from the least power on, at each point.
_OF_TAPS = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
# Waveforms whose tiles are in memory at a time.
_SOME = 16


def frozen_winograd(weight, bias):
    """``F.conv1d`` of stride 1 with a weight ``[out, in, 3]``, time-major.

    A function of ``[batch, time, in]`` to ``[batch, time - 2, out]``, whose
    memory is not contiguous.
    """
    of_taps = torch.tensor(_OF_TAPS, dtype=torch.float64)
    weight = torch.einsum("pt,oit->poi", of_taps, weight.detach().double())
    weight, bias = weight.to(bias.dtype).contiguous(), bias.detach().clone()

    @torch.no_grad()
    def run(x):
        """See above."""
        time = x.shape[1] - TAPS + 1
        tiles = -(-time // _OUTPUTS)
        x = F.pad(x, (0, 0, 0, _OUTPUTS * tiles - time))
        y = x.new_empty(len(x), tiles, _OUTPUTS, len(bias))
        for inputs, outputs in zip(x.split(_SOME), y.split(_SOME)):
            values = _of_inputs(inputs, tiles).flatten(1, 2)
            # The outputs of a tile are each the second point's value plus
            # others', so that has the bias.
            products = [
                matmul_t(each, taps, bias if point == 1 else None)
                for point, (each, taps) in enumerate(zip(values, weight))
            ]
            _add_up(products, outputs.flatten(0, 1))
        return y.flatten(1, 2)[:, :time]

    return run


def _of_inputs(x, tiles):
    """Values of each tile's six inputs, ``[points, batch, tiles, channels]``."""
    last = _OUTPUTS * (tiles - 1) + 1
    a, b, c, d, e, f = (
        x[:, at : at + last : _OUTPUTS] for at in range(_POINTS)
    )
    values = x.new_empty(_POINTS, *e.shape)
    even, odd = torch.sub(e, c, alpha=4), torch.sub(d, b, alpha=4)
    torch.add(even, odd, out=values[1])
    torch.sub(even, odd, out=values[2])
    torch.sub(e, c, out=even)
    torch.sub(d, b, out=odd)
    torch.add(even, odd, alpha=2, out=values[3])
    torch.sub(even, odd, alpha=2, out=values[4])
    torch.sub(a, c, out=values[0]).mul_(4).add_(even)
    torch.sub(f, d, out=values[5]).sub_(odd, alpha=4)
    return values


def _add_up(products, outputs):
    """Fill ``outputs``, ``[tiles, 4, channels]``; the products are lost."""
    first, ones, minus_ones, twos, minus_twos, last = products
    even, even_twos = ones + minus_ones, twos + minus_twos
    odd, odd_twos = ones.sub_(minus_ones), twos.sub_(minus_twos)
    torch.add(even, even_twos, out=outputs[:, 0]).add_(first)
    torch.add(odd, odd_twos, alpha=2, out=outputs[:, 1])
    torch.add(even, even_twos, alpha=4, out=outputs[:, 2])
    torch.add(odd, odd_twos, alpha=8, out=outputs[:, 3]).add_(last)
