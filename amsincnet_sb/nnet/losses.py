"""Softmax losses with an additive margin.

:class:`AMSoftmax` is the published equation; :class:`ReleasedAMSoftmax` is
what the code released with AM-SincNet computes, which is something else.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AMSoftmax", "ReleasedAMSoftmax"]


class AMSoftmax(nn.Module):
    r"""Additive-margin softmax (AM-Softmax, CosFace).

    .. math::

        L = -\frac1B \sum_i \log
            \frac{e^{s(\cos\theta_{y_i} - m)}}
                 {e^{s(\cos\theta_{y_i} - m)}
                  + \sum_{j \ne y_i} e^{s \cos\theta_j}}

    F. Wang et al., "Additive margin softmax for face verification", 2018,
    https://arxiv.org/abs/1801.05599; H. Wang et al., "CosFace", 2018.

    Arguments
    ---------
    margin : float
        ``m``, in cosine, from 0 to 1; 0 is a softmax over scaled cosines.
    scale : float
        ``s``, positive.

    Attributes
    ----------
    margin : torch.Tensor
        A scalar buffer, so that a schedule can change it between steps of a
        compiled or captured training step; see :meth:`set_margin`.

    Raises
    ------
    ValueError
        If the margin or the scale is out of range.

    Example
    -------
    >>> loss = AMSoftmax(margin=0.35)
    >>> cosines = torch.tensor([[[0.9, 0.1, -0.2]]])
    >>> round(loss(cosines, torch.tensor([[0]])).item(), 6)
    1e-06
    """

    def __init__(self, margin, scale=30.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(
                f"{type(self).__name__}: scale is {scale} but must be positive."
            )
        self.scale = float(scale)
        self.register_buffer("margin", torch.zeros(()), persistent=False)
        self.set_margin(margin)

    def set_margin(self, margin):
        """Change the margin in place.

        Arguments
        ---------
        margin : float
            From 0 to 1.
        """
        if not 0 <= margin <= 1:
            raise ValueError(
                f"{type(self).__name__}: margin is {margin} but must lie "
                "between 0 and 1."
            )
        self.margin.fill_(margin)

    def logits(self, predictions, targets):
        """Scaled scores, the target's lowered by the margin, in float32.

        Arguments
        ---------
        predictions : torch.Tensor
            ``[batch, 1, classes]`` or ``[batch, classes]``.
        targets : torch.Tensor
            ``[batch, 1]`` or ``[batch]``, int64.

        Returns
        -------
        logits : torch.Tensor
            ``[batch, classes]``, at least float32.
        targets : torch.Tensor
            ``[batch]``.
        """
        scores = predictions.flatten(0, -2)
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        targets = targets.flatten()
        own = F.one_hot(targets, scores.shape[-1]).to(scores.dtype)
        return self.scale * (scores - self.margin * own), targets

    def forward(self, predictions, targets, length=None):
        """Mean loss of a batch.

        Arguments
        ---------
        predictions : torch.Tensor
            Cosines, ``[batch, 1, classes]`` or ``[batch, classes]``.
        targets : torch.Tensor
            Class indices, ``[batch, 1]`` or ``[batch]``; or one-hot floats
            ``[batch, classes]``, as SpeechBrain's ``LogSoftmaxWrapper``
            passes them to get logits and finish the softmax itself.
        length : torch.Tensor, optional
            Accepted because SpeechBrain passes it; there is one prediction
            an example, so it changes nothing.

        Returns
        -------
        torch.Tensor
            Scalar; for one-hot targets the logits, ``[batch, classes]``.
        """
        with torch.autocast(predictions.device.type, enabled=False):
            if targets.is_floating_point():
                return self.logits(predictions, targets.argmax(-1))[0]
            return F.cross_entropy(*self.logits(predictions, targets))

    def extra_repr(self):
        """What ``print(module)`` shows."""
        return f"margin={self.margin.item():g}, scale={self.scale:g}"


class ReleasedAMSoftmax(AMSoftmax):
    r"""The loss of the code released with AM-SincNet.

    It takes log-probabilities ``p`` (not cosines) and divides each class
    column by its norm **over the batch**:

    .. math::

        q_{ij} = \frac{p_{ij}}{\sqrt{\sum_k p_{kj}^2} + \epsilon}, \qquad
        L = -\frac1B \sum_i \log
            \frac{e^{s(q_{iy_i} - m)}}
                 {e^{s(q_{iy_i} - m)} + \sum_{j \ne y_i} e^{s q_{ij}}
                  + \epsilon}, \qquad \epsilon = 10^{-12}

    Neither features nor class weights are normalised, so the margin adds
    about ``s·m`` to the loss and next to nothing to its gradient. The loss of
    an example depends on the rest of the batch; a batch of one has no
    gradient. The published learning curves of AM-SincNet were made with it.
    Computed here in the logarithm, where the original cancels.

    Arguments
    ---------
    margin : float
        ``m``, from 0 to 1.
    scale : float
        ``s``, positive.

    Example
    -------
    >>> loss = ReleasedAMSoftmax(margin=0.5)
    >>> p = torch.log_softmax(torch.zeros(4, 3), dim=-1)
    >>> round(loss(p.unsqueeze(1), torch.tensor([0, 1, 2, 0])).item(), 4)
    15.6931
    """

    eps = 1e-12

    def forward(self, predictions, targets, length=None):
        """Mean loss of a batch.

        Arguments
        ---------
        predictions : torch.Tensor
            Log-probabilities, ``[batch, 1, classes]`` or
            ``[batch, classes]``.
        targets : torch.Tensor
            Class indices, ``[batch, 1]`` or ``[batch]``.
        length : torch.Tensor, optional
            Changes nothing; see :meth:`AMSoftmax.forward`.

        Returns
        -------
        torch.Tensor
            Scalar.
        """
        if targets.is_floating_point():
            raise ValueError(
                "ReleasedAMSoftmax is more than a softmax of logits; make it "
                "the compute_cost itself, without LogSoftmaxWrapper."
            )
        with torch.autocast(predictions.device.type, enabled=False):
            p = predictions.flatten(0, -2)
            if p.dtype in (torch.float16, torch.bfloat16):
                p = p.float()
            q = p / (p.norm(dim=0, keepdim=True) + self.eps)
            logits, targets = self.logits(q, targets)
            total = logits.logsumexp(-1)
            floor = torch.full_like(total, math.log(self.eps))
            own = logits.gather(1, targets[:, None]).squeeze(1)
            return (torch.logaddexp(total, floor) - own).mean()
