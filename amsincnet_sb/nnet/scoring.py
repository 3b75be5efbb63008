"""From a classifier's output to what may be added up over windows."""

__all__ = ["log_posteriors"]


def log_posteriors(predictions, scale=1.0):
    """Log-posteriors of the speakers.

    Arguments
    ---------
    predictions : torch.Tensor
        ``[..., speakers]``: cosines, or log-probabilities, which stay as
        they are at a scale of 1.
    scale : float
        That of the loss the cosines were trained with.

    Returns
    -------
    torch.Tensor
        The same shape, float32.

    Example
    -------
    >>> import torch
    >>> log_posteriors(torch.tensor([[0.9, 0.1]]), scale=30).exp().round()
    tensor([[1., 0.]])
    """
    return (predictions.float() * scale).log_softmax(dim=-1)
