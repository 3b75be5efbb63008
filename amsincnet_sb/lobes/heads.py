"""What follows an embedding in training, by the name of its loss.

====================  ====================================================
``am``                :class:`~amsincnet_sb.nnet.losses.AMSoftmax`; with a
                      margin of 0 the normalised softmax
``aam``               :class:`~amsincnet_sb.nnet.angular_losses.AAMSoftmax`
``curricular``        :class:`~amsincnet_sb.nnet.angular_losses.\
CurricularSoftmax`
``softmax``           of a linear layer, without margin and scale
``released``          :class:`~amsincnet_sb.nnet.losses.ReleasedAMSoftmax`,
                      the loss of the authors' code
====================  ====================================================

The first three are of cosines, the others of log-probabilities. A hyperparameter
file cannot choose a class by a key; these functions can.
"""

import functools

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.nnet.angular_losses import AAMSoftmax, CurricularSoftmax
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "LOSSES",
    "check_subcentres",
    "make_classifier",
    "make_loss",
    "make_scores",
]


def _negative_log_likelihood(margin, scale):
    # Slow to import, and the names alone are needed elsewhere.
    from speechbrain.nnet.losses import nll_loss

    return nll_loss


OF_COSINES = {
    "am": AMSoftmax,
    "aam": AAMSoftmax,
    "curricular": CurricularSoftmax,
}
LOSSES = {
    **OF_COSINES,
    "softmax": _negative_log_likelihood,
    "released": ReleasedAMSoftmax,
}


def check_subcentres(loss, subcentres):
    """Raise an InputError for several subcentres and a loss that has none."""
    if subcentres > 1 and loss not in OF_COSINES:
        raise InputError(
            f"subcentres is {subcentres}, but the loss {loss} is not of "
            "cosines and has none; leave it at 1."
        )


def make_classifier(loss, input_size, out_neurons, subcentres=1):
    """The classifier for a loss; see :func:`check_subcentres`.

    Example
    -------
    >>> type(make_classifier("softmax", 16, 3)).__name__
    'SoftmaxClassifier'
    """
    check_subcentres(loss, subcentres)
    if loss in OF_COSINES:
        return CosineClassifier(input_size, out_neurons, subcentres)
    return SoftmaxClassifier(input_size, out_neurons)


def make_loss(loss, margin, scale):
    """The loss itself, as a SpeechBrain recipe's ``compute_cost``.

    Example
    -------
    >>> make_loss("aam", 0.2, 30.0)
    AAMSoftmax(margin=0.2, scale=30)
    """
    return LOSSES[loss](margin, scale)


def make_scores(loss, scale):
    """A function from the classifier's output to log-posteriors.

    Example
    -------
    >>> make_scores("softmax", 30.0).keywords
    {'scale': 1.0}
    """
    scale = scale if loss in OF_COSINES else 1.0
    return functools.partial(log_posteriors, scale=scale)
