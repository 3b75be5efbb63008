"""A margin that rises by itself, in recipes that know nothing of it."""

import torch
from torch import nn

from amsincnet_sb.nnet.schedules import LinearRamp

__all__ = ["MarginWarmup"]


class MarginWarmup(nn.Module):
    """A loss whose margin rises from 0 over the first training batches.

    With the whole margin from the first step a large one asks of random
    embeddings what they cannot give. A recipe that changes the margin itself
    needs no more than :class:`amsincnet_sb.nnet.schedules.LinearRamp`; this
    wrapper is for unmodified ones: it counts the batches it is called with
    while gradients are recorded, which validation does not do. The count is
    its state, so that a run that goes on does so with its margin if it stands
    among the checkpointer's recoverables.

    Arguments
    ---------
    loss : torch.nn.Module
        :class:`amsincnet_sb.nnet.losses.AMSoftmax`, or any with a ``margin``
        and a ``set_margin``. Its margin is the one to reach.
    warmup_steps : int
        Batches to reach it in.
    start_step : int
        Batches with no margin before that.

    Attributes
    ----------
    steps : int
        Training batches so far.

    Example
    -------
    >>> from amsincnet_sb.nnet.losses import AMSoftmax
    >>> compute_cost = MarginWarmup(AMSoftmax(margin=0.2), warmup_steps=100)
    >>> cosines = torch.zeros(4, 1, 3, requires_grad=True)
    >>> for step in range(51):
    ...     loss = compute_cost(cosines, torch.tensor([[0], [1], [2], [0]]))
    >>> round(compute_cost.loss.margin.item(), 2), compute_cost.steps
    (0.1, 51)
    """

    def __init__(self, loss, warmup_steps, start_step=0):
        super().__init__()
        self.loss = loss
        self.margin = LinearRamp(
            float(loss.margin), ramp_steps=warmup_steps, start_step=start_step
        )
        self.steps = 0

    def forward(self, predictions, targets, length=None):
        """The loss with the margin of this batch.

        Arguments
        ---------
        predictions, targets, length : torch.Tensor
            See :meth:`amsincnet_sb.nnet.losses.AMSoftmax.forward`.

        Returns
        -------
        torch.Tensor
            What the loss gives.
        """
        self.loss.set_margin(self.margin(self.steps))
        # A recipe does not switch a loss between training and evaluation.
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return self.loss(predictions, targets, length)

    def get_extra_state(self):
        """What ``state_dict`` keeps."""
        return {"steps": self.steps}

    def set_extra_state(self, state):
        """Go on from a ``state_dict``."""
        self.steps = state["steps"]

    def extra_repr(self):
        """What ``print(module)`` shows."""
        return (
            f"warmup_steps={self.margin.ramp_steps}, "
            f"start_step={self.margin.start_step}, steps={self.steps}"
        )
