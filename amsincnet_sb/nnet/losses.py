"""Softmax losses with an additive margin, constant or rising.

:class:`AMSoftmax` is the published equation; :class:`ReleasedAMSoftmax` is
the loss in the code released with AM-SincNet, another function;
:class:`MarginWarmup` raises the margin of either. Margins on the angle are in
:mod:`amsincnet_sb.nnet.angular_losses`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.nnet.schedules import LinearRamp

__all__ = ["AMSoftmax", "MarginWarmup", "ReleasedAMSoftmax"]


class AMSoftmax(nn.Module):
    r"""Additive-margin softmax (AM-Softmax, CosFace).

    .. math::

        L = -\frac1B \sum_i \log
            \frac{e^{s(\cos\theta_{y_i} - m)}}
                 {e^{s(\cos\theta_{y_i} - m)}
                  + \sum_{j \ne y_i} e^{s \cos\theta_j}}

    F. Wang et al., "Additive margin softmax for face verification", 2018,
    https://arxiv.org/abs/1801.05599; H. Wang et al., "CosFace", 2018.

    SpeechBrain's ``LogSoftmaxWrapper(AngularMargin(margin, scale))`` is the
    same equation. There the margin is a Python float, which a captured
    training step holds constant; here it is a scalar buffer, which
    :meth:`set_margin` changes between replays.

    Arguments
    ---------
    margin : float
        ``m``, in cosine, from 0 to 1; 0 is a softmax over scaled cosines.
    scale : float
        ``s``, positive.

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

    margin: torch.Tensor

    def __init__(self, margin: float, scale: float = 30.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(
                f"{type(self).__name__}: scale is {scale} but must be positive."
            )
        self.scale = float(scale)
        self.register_buffer("margin", torch.zeros(()), persistent=False)
        self.set_margin(margin)

    def set_margin(self, margin: float) -> None:
        """Change the margin in place; it must be from 0 to 1."""
        if not 0 <= margin <= 1:
            raise ValueError(
                f"{type(self).__name__}: margin is {margin} but must lie "
                "between 0 and 1."
            )
        self.margin.fill_(margin)

    def forward(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss of a batch, in float32 whatever the autocast.

        Arguments
        ---------
        predictions : torch.Tensor
            Cosines, ``[batch, 1, classes]`` or ``[batch, classes]``.
        targets : torch.Tensor
            Labels, integers ``[batch, 1]`` or ``[batch]``; or one-hot floats
            ``[batch, classes]``, as ``LogSoftmaxWrapper`` passes them to its
            ``loss_fn``, from which it wants logits.
        length : torch.Tensor, optional
            Not used: there is one prediction an example.

        Returns
        -------
        torch.Tensor
            Scalar; for one-hot targets the logits, ``[batch, classes]``.
        """
        with torch.autocast(predictions.device.type, enabled=False):
            cosines = _flat_float(predictions)
            if targets.is_floating_point():
                return self._logits(cosines, targets.argmax(-1))
            targets = targets.flatten().long()
            return F.cross_entropy(self._logits(cosines, targets), targets)

    def _logits(self, scores, targets):
        own = F.one_hot(targets, scores.shape[-1]).to(scores.dtype)
        return self.scale * (scores - self.margin * own)

    def extra_repr(self) -> str:
        """Text for ``print(module)``."""
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
    Computed here in the logarithm, where the original cancels. Arguments are
    those of :class:`AMSoftmax`.

    Example
    -------
    >>> loss = ReleasedAMSoftmax(margin=0.5)
    >>> p = torch.log_softmax(torch.zeros(4, 3), dim=-1)
    >>> round(loss(p.unsqueeze(1), torch.tensor([0, 1, 2, 0])).item(), 4)
    15.6931
    """

    eps = 1e-12

    def forward(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean loss of a batch of log-probabilities, of the same shapes."""
        if targets.is_floating_point():
            raise ValueError(
                "ReleasedAMSoftmax is more than a softmax of logits; make it "
                "the compute_cost itself, without LogSoftmaxWrapper."
            )
        with torch.autocast(predictions.device.type, enabled=False):
            p = _flat_float(predictions)
            targets = targets.flatten().long()
            q = p / (p.norm(dim=0, keepdim=True) + self.eps)
            logits = self._logits(q, targets)
            total = logits.logsumexp(-1)
            floor = torch.full_like(total, math.log(self.eps))
            own = logits.gather(1, targets[:, None]).squeeze(1)
            return (torch.logaddexp(total, floor) - own).mean()


class MarginWarmup(nn.Module):
    """A loss whose margin rises from 0 over the first training batches.

    For scripts that know nothing of margins: it counts the batches that it is
    called with while gradients are computed, which validation does not do.
    The count is its state; list it among the checkpointer's recoverables, so
    that a resumed run goes on with its margin. A script that sets the margin
    itself needs only :class:`amsincnet_sb.nnet.schedules.LinearRamp`.

    Arguments
    ---------
    loss : torch.nn.Module
        :class:`AMSoftmax`, or any with a ``margin`` and a ``set_margin``. Its
        margin is the one to reach.
    warmup_steps : int
        Batches to reach it in.

    Example
    -------
    >>> compute_cost = MarginWarmup(AMSoftmax(margin=0.2), warmup_steps=100)
    >>> cosines = torch.zeros(4, 1, 3, requires_grad=True)
    >>> for step in range(51):
    ...     loss = compute_cost(cosines, torch.tensor([[0], [1], [2], [0]]))
    >>> round(compute_cost.loss.margin.item(), 2), compute_cost.steps
    (0.1, 51)
    """

    def __init__(self, loss: AMSoftmax, warmup_steps: int) -> None:
        super().__init__()
        self.loss = loss
        self.margin = LinearRamp(float(loss.margin), ramp_steps=warmup_steps)
        self.steps = 0

    def forward(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss with this batch's margin; see :meth:`AMSoftmax.forward`."""
        self.loss.set_margin(self.margin(self.steps))
        # A recipe does not switch a loss between training and evaluation.
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return self.loss(predictions, targets, length)

    def get_extra_state(self) -> dict[str, int]:
        """State for ``state_dict``."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Continue from a ``state_dict``."""
        self.steps = state["steps"]


def _flat_float(scores):
    """Scores ``[batch, classes]``, at least float32."""
    scores = scores.flatten(0, -2)
    half = scores.dtype in (torch.float16, torch.bfloat16)
    return scores.float() if half else scores
