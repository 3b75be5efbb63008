"""Softmax losses with a margin on the angle, to compare with AMSoftmax."""

import math

import torch

from amsincnet_sb.nnet.losses import AMSoftmax

__all__ = ["AAMSoftmax", "CurricularSoftmax"]

EDGE = 1e-7  # from a cosine to one, where the angle has no gradient


class AAMSoftmax(AMSoftmax):
    r"""Additive-angular-margin softmax (AAM-Softmax, ArcFace).

    As :class:`~amsincnet_sb.nnet.losses.AMSoftmax`, whose arguments it has,
    with :math:`\cos(\theta_{y_i} + m)` in place of :math:`\cos\theta_{y_i} -
    m`, and :math:`\cos\theta_{y_i} - m\sin m` where the sum is beyond
    :math:`\pi`. The margin is in radians, from 0 to 1.

    J. Deng et al., "ArcFace: additive angular margin loss for deep face
    recognition", CVPR 2019, https://arxiv.org/abs/1801.07698.

    SpeechBrain's ``LogSoftmaxWrapper(AdditiveAngularMargin(margin, scale))``
    is the same equation; its margin cannot change in a captured step.

    Example
    -------
    >>> loss = AAMSoftmax(margin=0.2)
    >>> cosines = torch.tensor([[[0.9, 0.1, -0.2]]])
    >>> loss(cosines, torch.tensor([[0]])).item() < 1e-6
    True
    """

    def _logits(self, scores, targets):
        own = scores.gather(1, targets[:, None])
        return self.scale * scores.scatter(
            1, targets[:, None], self._with_margin(own)
        )

    def _with_margin(self, cosines):
        cosines = cosines.clamp(EDGE - 1, 1 - EDGE)
        angle = cosines.acos() + self.margin
        beyond = cosines - self.margin * self.margin.sin()
        return torch.where(angle < math.pi, angle.cos(), beyond)


class CurricularSoftmax(AAMSoftmax):
    r"""CurricularFace: an angular margin, and other classes that grow harder.

    As :class:`AAMSoftmax`, but the cosines of other classes that exceed the
    true one's with its margin are multiplied by :math:`t + \cos\theta_j`. The
    buffer ``t`` is the moving average of the true classes' cosines: it starts
    at 0 and follows by a hundredth with every batch for which gradients are
    computed. It is state: keep it with the checkpoints.

    Y. Huang et al., "CurricularFace: adaptive curriculum learning loss for
    deep face recognition", CVPR 2020, https://arxiv.org/abs/2004.00288.
    SpeechBrain has no such loss.

    Example
    -------
    >>> loss = CurricularSoftmax(margin=0.2)
    >>> cosines = torch.tensor([[[0.9, 0.1, -0.2]]], requires_grad=True)
    >>> _ = loss(cosines, torch.tensor([[0]]))
    >>> round(loss.t.item(), 6)
    0.009
    """

    pace = 0.01
    t: torch.Tensor

    def __init__(self, margin: float, scale: float = 30.0) -> None:
        super().__init__(margin, scale)
        self.register_buffer("t", torch.zeros(()))

    def _logits(self, scores, targets):
        scores = scores.clamp(-1, 1)
        own = scores.gather(1, targets[:, None])
        if self.training and torch.is_grad_enabled():
            # Not in place: the graph of the loss holds the former one.
            with torch.no_grad():
                self.t.copy_(self.t.lerp(own.mean().to(self.t), self.pace))
        t = self.t.clone()
        with_margin = self._with_margin(own)
        harder = torch.where(
            scores > with_margin, scores * (t + scores), scores
        )
        return self.scale * harder.scatter(1, targets[:, None], with_margin)
