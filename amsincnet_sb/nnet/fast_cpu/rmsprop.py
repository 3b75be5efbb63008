"""RMSprop for large weights."""

import torch

__all__ = ["RMSprop"]

# Numbers of a parameter that are handled together: few enough for the cache,
# enough to be worth a call.
_PART = 2**18


class RMSprop(torch.optim.RMSprop):
    """:class:`torch.optim.RMSprop` that works in the cache, part by part.

    The same numbers bit for bit and the same ``state_dict``, without
    temporaries of a weight's size, which cost more than the arithmetic. The
    plain form of the algorithm alone: no momentum, not centred.

    Arguments
    ---------
    params : iterable
        As for every optimizer.
    lr, alpha, eps, weight_decay : float
        See :class:`torch.optim.RMSprop`.

    Example
    -------
    >>> weight = torch.ones(3, requires_grad=True)
    >>> optimizer = RMSprop([weight], lr=0.1, alpha=0.95, eps=1e-8)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.detach()
    tensor([0.5528, 0.5528, 0.5528])
    """

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0):
        super().__init__(params, lr, alpha, eps, weight_decay)

    @torch.no_grad()
    def step(self, closure=None):
        """Change the parameters.

        Arguments
        ---------
        closure : callable, optional
            Computes the loss again.

        Returns
        -------
        torch.Tensor or None
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight, group):
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["square_avg"] = torch.zeros_like(weight)
        state["step"] += 1
        alpha, decay = group["alpha"], group["weight_decay"]
        for part, grad, average in zip(
            *(
                each.view(-1).split(_PART)
                for each in (
                    weight,
                    weight.grad.contiguous(),
                    state["square_avg"],
                )
            )
        ):
            if decay:
                grad = grad.add(part, alpha=decay)
            average.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
            root = average.sqrt().add_(group["eps"])
            part.addcdiv_(grad, root, value=-group["lr"])
