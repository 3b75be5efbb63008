"""An optimizer for networks whose weights do not fit in a cache."""

import inspect

import torch

__all__ = ["RMSprop"]

# Numbers of a parameter that are handled together: few enough for the cache,
# enough to be worth a call.
_PART = 2**18

# Without what it does for the sake of `differentiable`, which cannot be
# compiled.
_step_of_torch = inspect.unwrap(torch.optim.RMSprop.step)


class RMSprop(torch.optim.RMSprop):
    """:class:`torch.optim.RMSprop`, on a CPU part by part in the cache.

    The same numbers bit for bit and the same ``state_dict``, without
    temporaries of a weight's size, which cost a CPU more than the arithmetic.
    With momentum, centred, or on another device it is torch's own.

    Arguments
    ---------
    *args, **kwargs
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
        if not all(map(_is_simple, self.param_groups)):
            return _step_of_torch(self, closure)
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
        tensors = weight, weight.grad, state["square_avg"]
        if all(tensor.is_contiguous() for tensor in tensors):
            tensors = [tensor.view(-1) for tensor in tensors]
        for part, grad, average in zip(
            *(each.split(_PART) for each in tensors)
        ):
            if decay:
                grad = grad.add(part, alpha=decay)
            average.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
            root = average.sqrt().add_(group["eps"])
            part.addcdiv_(grad, root, value=-group["lr"])


def _is_simple(group):
    """Whether a group is one for the loop over parts."""
    special = ("momentum", "centered", "maximize", "differentiable")
    return not any(group[name] for name in special) and all(
        weight.device.type == "cpu" and weight.is_floating_point()
        for weight in group["params"]
    )
