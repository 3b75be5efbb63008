"""Sharpness-aware minimisation: the gradient of the worst weights nearby."""

import torch

__all__ = ["Sharpness"]


class Sharpness:
    """Moves weights to where a loss is about highest within a radius.

    The gradient there, in place of the one where they are, leads to weights
    around which the loss stays low (P. Foret et al., "Sharpness-aware
    minimization for efficiently improving generalization", ICLR 2021,
    https://arxiv.org/abs/2010.01412). A step computes two gradients.

    Moved are parameters of two or more dimensions, matrices and kernels and
    the gains for each time of layer normalisation, together by ``radius`` along
    the gradient; biases and gains of channels and the cut-offs of sinc filters
    stay.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
        Of which the weights are taken.
    radius : float
        Euclidean length of the move, positive.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> before = layer.weight.detach().clone()
    >>> sharpness = Sharpness(layer.parameters(), 0.05)
    >>> sharpness.climb(layer(torch.ones(1, 2)).sum())
    >>> [round(x, 4) for x in (layer.weight - before).flatten().tolist()]
    [0.0354, 0.0354]
    >>> sharpness.descend()
    >>> bool((layer.weight == before).all())
    True
    """

    def __init__(self, parameters, radius):
        self.radius = radius
        self._weights = [p for p in parameters if p.dim() > 1]
        self._before = [torch.empty_like(w) for w in self._weights]

    def climb(self, loss):
        """Move the weights to where ``loss``, computed by them, is higher."""
        # Nobody else's gradients: .grad and its hooks are not touched.
        gradients = torch.autograd.grad(
            loss, self._weights, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            scale = self.radius / norm.clamp(min=1e-12)
            torch._foreach_copy_(self._before, self._weights)
            torch._foreach_add_(
                self._weights, torch._foreach_mul(gradients, scale)
            )

    @torch.no_grad()
    def descend(self):
        """Put the weights back, bit for bit."""
        torch._foreach_copy_(self._weights, self._before)
