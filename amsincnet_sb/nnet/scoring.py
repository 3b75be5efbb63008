"""From a classifier's output to scores that may be summed over windows."""

__all__ = ["log_posteriors"]


def log_posteriors(predictions, scale=1.0):
    """Log-posteriors of the speakers, in float32.

    Arguments
    ---------
    predictions : torch.Tensor
        ``[..., speakers]``: cosines, or log-probabilities (with a scale of 1,
        which leaves them unchanged).
    scale : float
        That of the loss the cosines were trained with.

    Returns
    -------
    torch.Tensor
        ``[..., speakers]``.

    Example
    -------
    >>> import torch
    >>> log_posteriors(torch.tensor([[0.9, 0.1]]), scale=30).exp().round()
    tensor([[1., 0.]])
    """
    return (predictions.float() * scale).log_softmax(dim=-1)
