"""A slice of a batch through all layers, forward and backward."""

import torch
import torch.nn.functional as F

from amsincnet_sb.kernels.cpu.folding import fold, unfold_gradient
from amsincnet_sb.kernels.cpu.matmul import (
    conv_backward,
    from_image,
    matmul_t,
    to_image,
    weight_image,
)
from amsincnet_sb.nnet.normalization import TINY

__all__ = ["Network"]


class Network:
    """SincNet's convolutional part for one slice, forward and backward.

    Feature maps are ``[batch, time, channels]`` throughout. ``settings`` are
    the taps of the sinc filters, pools, eps, slope, dtype of the matmuls and
    floor of the sinc layer's logarithm (0 for none). ``parameters`` are gain
    and bias of the input, even and odd filters, gain and bias of the first
    feature map, then weight, bias, gain and bias for each convolution.

    A first feature map without gain and bias is returned as it is; with those
    of its channels, ``[channels]``, it is not standardised. The sinc layer may
    have a ``sinc_dtype`` of its own: in bfloat16 the rounding of loud bands
    covers faint ones.
    """

    def __init__(self, settings, parameters, sinc_dtype=None):
        self.taps, self.pools, self.eps, self.slope, *rest = settings
        self.dtype, self.floor = rest
        self.sinc_dtype = sinc_dtype or self.dtype
        self.buffers = {}
        gain, bias, even, odd, *rest = parameters
        self.filters = even.to(self.sinc_dtype), odd.to(self.sinc_dtype)
        self.channels = len(even) // -(-self.pools[0] // 2)
        self.norms = [(gain, bias), rest[:2]]
        self.convs = []
        for weight, bias, *norm in zip(*[iter(rest[2:])] * 4):
            weight = weight_image(weight.to(self.dtype))
            self.convs.append((weight, bias.to(self.dtype)))
            self.norms.append(norm)

    def forward(self, x, kept=None):
        """Waveforms ``[batch, time]`` to the last layer's feature map.

        ``kept`` takes the tensors that :meth:`backward` needs.
        """
        choice = ()
        x = x.unsqueeze(2)
        for layer, norm in enumerate(self.norms):
            if layer == 1:
                x, choice = self._sinc_pool(x, kept is not None)
            elif layer > 1:
                x, choice = self._conv_pool(x, layer, kept is not None)
            std = x[:0]  # kept in any case
            if norm and norm[0].dim() > 1:
                x, std = self._standardise(x, own=layer > 0)
            if kept is not None:
                kept += x, std, *choice
            x = self._affine(x, layer)
        return x

    def backward(self, grad, kept, totals, whole):
        """Gradient of the waveforms; those of the parameters in ``totals``.

        ``kept`` iterates over the tensors that :meth:`forward` kept. Without
        ``whole`` the waveforms and the input's gain and bias get none.
        """
        # Behind the feature map and its deviation: signs of two and, of a
        # logarithm, its argument; then choices.
        counts = [0, 2 + (self.floor > 0)] + [1] * len(self.convs)
        kept = [[next(kept) for _ in range(2 + n)] for n in counts]
        last = len(self.norms) - 1
        out = self._affine(kept[last][0], last)
        for layer in range(last, -1, -1):
            normal, std, *choice = kept[layer]
            if not layer and not whole:
                return None
            at = 4 * layer
            if not self.norms[layer]:
                grad = grad.clone()  # overwritten below
            else:
                if layer:
                    grad = torch.ops.aten.leaky_relu_backward(
                        grad.contiguous(), out, self.slope, True
                    )
                grad = self._norm_backward(
                    grad, normal, std, self.norms[layer][0], totals[at : at + 2]
                )
            if layer:
                out = self._affine(kept[layer - 1][0], layer - 1)
                below = (
                    self._conv_pool_backward
                    if layer > 1
                    else self._sinc_pool_backward
                )
                grad = below(
                    grad, out, choice, layer, totals[at - 2 : at], whole
                )
        return grad.squeeze(2)

    def _affine(self, normal, layer):
        if not self.norms[layer]:
            return normal
        gain, bias = self.norms[layer]
        x = torch.addcmul(bias, normal, gain)
        return F.leaky_relu_(x, self.slope) if layer else x

    def _standardise(self, x, own):
        mean = x.mean(1, keepdim=True)
        x = x.sub_(mean) if own else x - mean
        variance = x.square().sum(1, keepdim=True) / (x.shape[1] - 1)
        std = (variance + TINY).sqrt()
        return x.div_(std + self.eps), std

    def _norm_backward(self, grad, normal, std, gain, totals):
        """Overwrites ``grad``."""
        pull = grad * normal
        totals[0] += pull.sum(0)
        totals[1] += grad.sum(0)
        pull = pull.mul_(gain).sum(1, keepdim=True)
        pull *= (std + self.eps) / std / (grad.shape[1] - 1)
        grad = grad.mul_(gain)
        mean = grad.mean(1, keepdim=True)
        grad = grad.addcmul_(normal, pull, value=-1).sub_(mean)
        return grad.mul_(1 / (std + self.eps))

    def _sinc_pool(self, x, keep):
        even, odd = (
            from_image(F.conv2d(to_image(rows), filters[:, :, None, None]))
            .to(x.dtype)
            .unflatten(2, (-1, self.channels))
            for rows, filters in zip(self._folded(x), self.filters)
        )
        signs = [each.sign().to(torch.int8) for each in (even, odd) if keep]
        even.abs_()
        even[:, :, : odd.shape[2]] += odd.abs_()
        best, first = _maximum(even, keep)
        for sign in signs:
            sign *= first[:, :, : sign.shape[2]]
        if not self.floor:
            return best, signs
        best += self.floor
        return (best.log(), [*signs, best]) if keep else (best.log_(), ())

    def _sinc_pool_backward(self, grad, x, signs, layer, totals, whole):
        if self.floor:
            *signs, argument = signs
            grad = grad.div_(argument)
        grad = grad.to(self.dtype).unsqueeze(2)
        down = []
        for rows, filters, sign, total in zip(
            self._folded(x), self.filters, signs, totals
        ):
            each = sign.to(self.dtype).mul_(grad).flatten(2)
            total += self._filters_gradient(each, rows, filters)
            if not whole:
                continue
            back = matmul_t(filters.t(), each.flatten(0, 1))
            down.append(back.unflatten(1, each.shape[:2]))
        if not whole:
            return None
        x_grad = unfold_gradient(
            *down, x.shape[1], self.taps, self.pools[0], self.buffers
        )
        return x_grad.to(x.dtype).unsqueeze(2)

    def _filters_gradient(self, grad, rows, filters):
        if self.dtype == torch.bfloat16:
            # torch has oneDNN's matmul here, faster than the convolution.
            return grad.flatten(0, 1).t() @ rows.flatten(0, 1)
        grads = conv_backward(
            to_image(grad),
            to_image(rows),
            filters[:, :, None, None],
            None,
            [False, True, False],
        )
        return grads[1][:, :, 0, 0]

    def _folded(self, x):
        x = x.squeeze(2).to(self.sinc_dtype)
        return fold(x, self.taps, self.pools[0])

    def _conv_pool(self, x, layer, keep):
        pool = self.pools[layer - 1]
        y = F.conv2d(to_image(x.to(self.dtype)), *self.convs[layer - 2])
        y = from_image(y).to(x.dtype)
        y = y[:, : y.shape[1] // pool * pool].unflatten(1, (-1, pool))
        best, first = _maximum(y, keep)
        return best, (first,)

    def _conv_pool_backward(self, grad, x, choice, layer, totals, whole):
        (first,) = choice
        weight, bias = self.convs[layer - 2]
        batch, time, channels = x.shape
        time += 1 - weight.shape[3]
        down = grad.new_zeros(batch, time, weight.shape[0])
        pooled = down[:, : first.shape[1] * first.shape[2]]
        pooled = pooled.view(first.shape).copy_(first)
        pooled *= grad.unsqueeze(2)
        down, x = (to_image(each.to(self.dtype)) for each in (down, x))
        down, *grads = conv_backward(down, x, weight, bias, [True] * 3)
        totals[0] += grads[0].squeeze(2)
        totals[1] += grads[1]
        return from_image(down).to(grad.dtype)


def _maximum(x, keep):
    """Maximum over axis 2 of ``[batch, time, candidates, channels]``.

    Also, if it is to be kept, which candidate was the first to have it: int8
    of the shape of ``x``, one or zero; else None.
    """
    best, *others = x.unbind(2)
    choice = torch.ones(x.shape, dtype=torch.int8) if keep else None
    for number, other in enumerate(others, start=1):
        if keep:
            # Comparisons that give bools take torch five times as long.
            worse = (best - other).sign_().to(torch.int8).add_(1).clamp_(max=1)
            choice[:, :, :number] *= worse.unsqueeze(2)
            torch.sub(1, worse, out=choice[:, :, number])
        best = torch.maximum(best, other)
    return best, choice
