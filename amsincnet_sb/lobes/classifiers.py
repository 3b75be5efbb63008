"""Classifiers: from speaker embeddings to scores of the training speakers."""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["CosineClassifier", "SoftmaxClassifier", "init_linear_"]


def init_linear_(linear):
    """Initialise a ``torch.nn.Linear`` as the released networks do.

    Weights are uniform within ``±sqrt(0.01 / (in + out))``, biases zero. It
    returns the layer, changed in place.
    """
    bound = math.sqrt(0.01 / (linear.in_features + linear.out_features))
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


class CosineClassifier(nn.Module):
    """Cosines of an embedding with one weight vector per speaker.

    To be trained with :class:`amsincnet_sb.nnet.losses.AMSoftmax`.
    SpeechBrain's ``ECAPA_TDNN.Classifier`` rounds its cosines under autocast;
    these stay float32, because the loss scales them by 30.

    Arguments
    ---------
    input_size : int
        Size of an embedding.
    out_neurons : int
        Number of speakers.
    subcentres : int
        Weight vectors of each speaker, of which the nearest one counts
        (J. Deng et al., "Sub-center ArcFace: boosting face recognition by
        large-scale noisy web faces", ECCV 2020). With several, ``weight`` is
        ``[out_neurons, subcentres, input_size]``.

    Example
    -------
    >>> classify = CosineClassifier(input_size=16, out_neurons=3)
    >>> cosines = classify(torch.randn(4, 1, 16))
    >>> cosines.shape, bool(cosines.abs().max() <= 1.0001)
    (torch.Size([4, 1, 3]), True)
    """

    def __init__(
        self, input_size: int, out_neurons: int, subcentres: int = 1
    ) -> None:
        super().__init__()
        self.subcentres = subcentres
        vectors = torch.empty(out_neurons * subcentres, input_size)
        nn.init.xavier_uniform_(vectors)
        if subcentres > 1:
            vectors = vectors.unflatten(0, (out_neurons, subcentres))
        self.weight = nn.Parameter(vectors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, 1, input_size]`` to cosines ``[batch, 1, out_neurons]``."""
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x.to(self.weight.dtype), dim=-1)
            vectors = F.normalize(self.weight, dim=-1)
            if self.subcentres == 1:
                return F.linear(x, vectors)
            cosines = F.linear(x, vectors.flatten(0, 1))
            return cosines.unflatten(-1, (-1, self.subcentres)).max(-1).values


class SoftmaxClassifier(nn.Module):
    """Linear layer and log-softmax, as in the released networks.

    Arguments
    ---------
    input_size : int
        Size of an embedding.
    out_neurons : int
        Number of speakers.

    Example
    -------
    >>> classify = SoftmaxClassifier(input_size=16, out_neurons=3)
    >>> classify(torch.randn(4, 1, 16)).exp().sum(-1).round().flatten()
    tensor([1., 1., 1., 1.], grad_fn=<ViewBackward0>)
    """

    def __init__(self, input_size: int, out_neurons: int) -> None:
        super().__init__()
        self.linear = init_linear_(nn.Linear(input_size, out_neurons))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, 1, input_size]`` to log-probabilities per speaker."""
        x = self.linear(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.log_softmax(dim=-1, dtype=wide)
