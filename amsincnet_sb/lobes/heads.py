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

from speechbrain.nnet.losses import nll_loss

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.nnet.angular_losses import AAMSoftmax, CurricularSoftmax
from amsincnet_sb.nnet.losses import AMSoftmax, ReleasedAMSoftmax
from amsincnet_sb.nnet.scoring import log_posteriors

__all__ = ["make_classifier", "make_loss", "make_scores"]

OF_COSINES = {
    "am": AMSoftmax,
    "aam": AAMSoftmax,
    "curricular": CurricularSoftmax,
}
OF_LOG_PROBABILITIES = {
    "softmax": lambda margin, scale: nll_loss,
    "released": ReleasedAMSoftmax,
}


def make_classifier(loss, input_size, out_neurons, subcentres=1):
    """The classifier for a loss; a ValueError if it has no subcentres.

    Example
    -------
    >>> type(make_classifier("softmax", 16, 3)).__name__
    'SoftmaxClassifier'
    """
    if loss in OF_COSINES:
        return CosineClassifier(input_size, out_neurons, subcentres)
    if subcentres > 1:
        raise ValueError(
            f"subcentres is {subcentres}, but the loss {loss} is not of "
            "cosines and has none; leave it at 1."
        )
    return SoftmaxClassifier(input_size, out_neurons)


def make_loss(loss, margin, scale):
    """The loss itself, as a SpeechBrain recipe's ``compute_cost``.

    Example
    -------
    >>> make_loss("aam", 0.2, 30.0)
    AAMSoftmax(margin=0.2, scale=30)
    """
    return {**OF_COSINES, **OF_LOG_PROBABILITIES}[loss](margin, scale)


def make_scores(loss, scale):
    """A function from the classifier's output to log-posteriors.

    Example
    -------
    >>> make_scores("softmax", 30.0).keywords
    {'scale': 1.0}
    """
    scale = scale if loss in OF_COSINES else 1.0
    return functools.partial(log_posteriors, scale=scale)
