"""From a classifier's output to scores that may be summed over windows."""

__all__ = ["log_posteriors"]


def log_posteriors(predictions, scale=1.0):
    """Log-posteriors of the speakers, in float32.

    ``[..., speakers]``: of cosines, with the ``scale`` of the loss they were
    trained with, or of log-probabilities, which a scale of 1 leaves unchanged.
    """
    return (predictions.float() * scale).log_softmax(dim=-1)
