"""Normalisation over time, as the SincNet family computes it."""

import torch
from torch import nn

__all__ = ["TimeLayerNorm", "UnitLength", "standardise"]

# Far below the variance of one 16-bit step, far above underflow: keeps the
# square root differentiable at zero without moving any other value.
TINY = 1e-20


def standardise(x, eps):
    """``(x − mean) / (std + eps)`` over the last axis, with the unbiased std.

    Half precisions are computed in float32.

    Example
    -------
    >>> standardise(torch.tensor([1.0, 2.0, 3.0]), eps=0)
    tensor([-1.,  0.,  1.])
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
    return centred / ((variance + TINY).sqrt() + eps)


class TimeLayerNorm(nn.Module):
    """``gain · (x − mean) / (std + eps) + bias`` over the last axis.

    Three things set it apart from :class:`torch.nn.LayerNorm`, which
    SpeechBrain's ``LayerNorm`` wraps, as the released weights need them: the
    standard deviation is the unbiased one, ``eps`` is added to it and not to
    the variance, and gain and bias have the whole shape of an example while
    the statistics run over its last axis alone. Silence gives the bias, and
    another constant about the bias: what its mean is rounded by is divided by
    ``eps``. The gradient there is finite, but up to ``1 / eps`` times that of
    the output.

    Arguments
    ---------
    shape : int or tuple of int
        Shape of one example; the last size is that of the axis normalised.
    eps : float
        Added to the standard deviation.
    affine : bool
        Whether there are a gain and a bias.

    Example
    -------
    >>> norm = TimeLayerNorm((80, 983))
    >>> norm(torch.randn(2, 80, 983)).shape
    torch.Size([2, 80, 983])
    """

    def __init__(self, shape, eps=1e-6, affine=True):
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.weight = self.bias = None
        if affine:
            self.weight = nn.Parameter(torch.ones(self.shape))
            self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x):
        """Normalise ``[batch, *shape]``; half precisions in float32."""
        x = standardise(x, self.eps)
        return x if self.weight is None else self.weight * x + self.bias

    def extra_repr(self):
        """For ``print(module)``."""
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.shape}, eps={self.eps}{affine}"


class UnitLength(nn.Module):
    """Embeddings scaled to length one.

    What ``EncoderClassifier.encode_batch(normalize=True)`` of SpeechBrain
    applies to those of a trained model: cosines become inner products. The
    relative lengths that it passes are not needed.

    Example
    -------
    >>> UnitLength()(torch.tensor([[[3.0, 4.0]]]), torch.ones(1))
    tensor([[[0.6000, 0.8000]]])
    """

    def forward(self, x, lengths=None):
        """Scale vectors, the last axis; zeros stay zeros."""
        return nn.functional.normalize(x, dim=-1)
