"""A feature map over time as one vector."""

import torch

__all__ = ["VARIANCE_FLOOR", "statistics"]

# Keeps the square root differentiable where nothing varies.
VARIANCE_FLOOR = 1e-6


def statistics(x):
    """Mean and standard deviation over time, in float32.

    ``[batch, time, channels]`` to ``[batch, 2 * channels]``: all means, then
    all deviations, of which the squares are means over time and not the
    unbiased ones.

    Example
    -------
    >>> statistics(torch.tensor([[[1.0], [3.0]]])).round(decimals=3)
    tensor([[2., 1.]])
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = x.mean(1)
    # The gradient through this mean adds up to zero and is left out.
    variance = (x - mean.detach().unsqueeze(1)).square().mean(1)
    return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], 1)
