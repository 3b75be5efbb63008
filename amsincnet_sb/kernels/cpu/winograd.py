"""Convolutions of three taps with half of the multiplications.

Four neighbouring outputs need twelve of them as written, and six where inputs
and taps are first turned into the values of polynomials at six points, 0, 1,
-1, 2, -2 and infinity: S. Winograd's minimal filtering, which A. Lavin and S.
Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, call F(4,
3), here along time. Each point is a matmul; what is added costs little where
there are many channels. So do the gradients, which are the transposes. It is
as exact as the plain form in float32, and would not be in less.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from amsincnet_sb.kernels.cpu.matmul import matmul_t

__all__ = ["TAPS", "frozen_winograd", "winograd"]

TAPS = 3
_OUTPUTS, _POINTS = 4, 6  # of a tile
# Values of three taps, from the least power on, at each point.
_OF_TAPS = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
# Waveforms of a thread whose tiles are in memory at a time.
_SOME = 32


def winograd(x, weight):
    """``F.conv1d`` of stride 1 with a weight ``[out, in, 3]``, time-major.

    ``[batch, time, in]`` to ``[batch, time - 2, out]``, whose memory is not
    contiguous; with gradients.
    """
    return _Winograd.apply(x, weight)


def frozen_winograd(weight, bias):
    """The same with a bias, for a weight that no longer changes.

    A function of ``x`` alone, without gradients.
    """
    taps, bias = _of_taps(weight.detach()), bias.detach().clone()

    @torch.no_grad()
    def run(x):
        """See above."""
        return _forward(x, taps, bias)

    return run


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        """See torch.autograd.Function."""
        taps = _of_taps(weight)
        ctx.save_for_backward(x, taps)
        return _forward(x, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See torch.autograd.Function."""
        x, taps = ctx.saved_tensors
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        tiles = _tiles(grad.shape[1])
        total, back = torch.zeros_like(taps), taps.transpose(1, 2).contiguous()
        for at in range(0, len(x), _some()):
            some = slice(at, at + _some())
            outputs = _padded(grad[some], _OUTPUTS * tiles)
            outputs = _of_outputs(outputs.unflatten(1, (tiles, -1)))
            inputs = _of_inputs(_for_tiles(x[some], tiles), tiles)
            for point, each in enumerate(outputs.flatten(1, 2)):
                total[point].addmm_(each.t(), inputs[point].flatten(0, 1))
            if x_grad is not None:
                values = [
                    matmul_t(each, those).unflatten(0, (-1, tiles))
                    for each, those in zip(outputs.flatten(1, 2), back)
                ]
                x_grad[some] = _add_inputs(values)[:, : x.shape[1]]
        of_taps = _OF_TAPS.to(total.dtype)
        return x_grad, torch.einsum("pt,poi->oit", of_taps, total)


def _some():
    return _SOME * torch.get_num_threads()


def _tiles(time):
    return -(-time // _OUTPUTS)


def _padded(x, time):
    """With zeros at the end, if need be."""
    return F.pad(x, (0, 0, 0, time - x.shape[1])) if time > x.shape[1] else x


def _for_tiles(x, tiles):
    return _padded(x, _OUTPUTS * tiles + TAPS - 1)


def _of_taps(weight):
    """Values of the taps, ``[points, out, in]``."""
    values = torch.einsum("pt,oit->poi", _OF_TAPS, weight.double())
    return values.to(weight.dtype).contiguous()


def _forward(x, taps, bias=None):
    time = x.shape[1] - TAPS + 1
    tiles = _tiles(time)
    y = x.new_empty(len(x), tiles, _OUTPUTS, taps.shape[1])
    for some, outputs in zip(x.split(_some()), y.split(_some())):
        values = _of_inputs(_for_tiles(some, tiles), tiles).flatten(1, 2)
        # The outputs of a tile are each the second point's value plus others',
        # so that has the bias.
        products = [
            matmul_t(each, those, bias if point == 1 else None)
            for point, (each, those) in enumerate(zip(values, taps))
        ]
        _add_up(products, outputs.flatten(0, 1))
    return y.flatten(1, 2)[:, :time]


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


def _of_outputs(grad):
    """The transpose of :func:`_add_up`: ``[points, batch, tiles, channels]``.

    Of the outputs' gradient, ``[batch, tiles, 4, channels]``.
    """
    a, b, c, d = grad.unbind(2)
    values = grad.new_empty(_POINTS, *a.shape)
    values[0], values[5] = a, d
    even, odd = a + c, b + d
    torch.add(even, odd, out=values[1])
    torch.sub(even, odd, out=values[2])
    torch.add(a, c, alpha=4, out=even)
    torch.add(b, d, alpha=4, out=odd)
    torch.add(even, odd, alpha=2, out=values[3])
    torch.sub(even, odd, alpha=2, out=values[4])
    return values


def _add_inputs(values):
    """The transpose of :func:`_of_inputs`: ``[batch, time, channels]``.

    Of a list of ``[batch, tiles, channels]``, which are lost. The last two
    inputs of a tile are the first two of the next.
    """
    zero, one, minus_one, two, minus_two, last = values
    even, even_two = one + minus_one, two + minus_two
    odd, odd_two = one.sub_(minus_one), two.sub_(minus_two)
    batch, tiles, channels = zero.shape
    grad = zero.new_zeros(batch, tiles + 1, _OUTPUTS, channels)
    a, b, c, d = grad[:, :-1].unbind(2)
    torch.mul(zero, 4, out=a)
    torch.mul(odd, -4, out=b).sub_(odd_two, alpha=2).add_(last, alpha=4)
    torch.mul(even, -4, out=c).sub_(even_two).sub_(zero, alpha=5)
    torch.add(odd, odd_two, alpha=2, out=d).sub_(last, alpha=5)
    grad[:, 1:, 0] += even.add_(even_two).add_(zero)
    grad[:, 1:, 1] += last
    return grad.flatten(1, 2)
