"""Muon: steps of hidden layers are orthogonal matrices; AdamW for the rest.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
2024, https://kellerjordan.github.io/posts/muon/.
"""

import torch
from torch.optim.adamw import adamw

__all__ = ["Muon", "is_muon"]

# Of the authors' iteration, in which singular values of 0.01 to 1 come near 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised for each weight; AdamW for the rest.

    A step moves a weight ``[out, in]``, or ``[out, in * taps]`` of a
    convolution, by ``0.2 * sqrt(max(rows, columns)) * lr`` times the orthogonal
    matrix nearest to its momentum, all of whose singular values are about 1.
    The factor gives steps the size of AdamW's, so that ``lr`` and
    ``weight_decay`` are AdamW's too (J. Liu et al., "Muon is scalable for LLM
    training", 2025, https://arxiv.org/abs/2502.16982).

    ``torch.optim.Muon`` takes 2-D parameters alone, cannot be captured as a
    CUDA graph and needs torch 2.9, where this package supports older ones.

    Orthogonalised are, in groups whose ``hidden`` is True, parameters of three
    or more dimensions and, with ``linears``, of two. A group that does not say
    is ``hidden``: of ``model.parameters()`` all matrices and kernels, even
    class vectors and gains, which do better with AdamW. The groups of
    ``parameter_groups(modules, hidden=network)`` (see
    :func:`amsincnet_sb.nnet.optimizers.parameter_groups`), which the recipe
    makes, go by role: the weights of ``torch.nn.Conv1d`` and
    ``torch.nn.Linear`` in the network.

    Orthogonalising takes matmuls, in bfloat16 on GPUs: about 30 times ``rows *
    columns * min(rows, columns)`` operations a weight and step. On a CPU, with
    large fully connected layers, ``linears=False`` is far faster.

    Arguments
    ---------
    params : iterable
        Parameters or groups, as torch's optimizers take them.
    lr : float or torch.Tensor
        Learning rate.
    weight_decay : float
        As AdamW's: a step multiplies parameters by ``1 - lr * weight_decay``.
    momentum : float
        Of what is orthogonalised.
    betas : tuple of float
        Of AdamW's averages of gradients and of their squares.
    eps : float
        Added to AdamW's denominators.
    linears : bool
        Orthogonalise fully connected layers and not convolutions alone.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Example
    -------
    >>> from amsincnet_sb.nnet.optimizers import parameter_groups
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    >>> groups = parameter_groups(net, hidden=net[0])
    >>> optimizer = Muon(groups, lr=0.05)
    >>> for _ in range(200):
    ...     x = torch.randn(16, 3)
    ...     loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> bool(loss < 0.1), sorted(optimizer.state[net[0].weight])
    (True, ['momentum_buffer'])
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        weight_decay=0.01,
        momentum=0.95,
        betas=(0.9, 0.999),
        eps=1e-8,
        linears=True,
    ):
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "linears": linears,
            "hidden": True,
            # As torch's: of AdamW's part, and for CUDA graphs.
            "foreach": None,
            "capturable": False,
        }
        for name in ("lr", "weight_decay", "eps"):
            if not defaults[name] >= 0:
                raise ValueError(
                    f"Muon: {name} is {defaults[name]} but must be at least 0."
                )
        for value in (momentum, *betas):
            if not 0 <= value < 1:
                raise ValueError(
                    f"Muon: momentum and betas are {momentum} and {betas} but "
                    "must be at least 0 and below 1."
                )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Do one step; ``closure`` computes the loss anew, which it returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights, momenta = [], []
            others, averages, squares, steps = [], [], [], []
            self._init_group(
                group, weights, momenta, others, averages, squares, steps
            )
            for weight, average in zip(weights, momenta):
                _orthogonal_step(group, weight, average)
            if others:
                beta1, beta2 = group["betas"]
                adamw(
                    others,
                    [parameter.grad for parameter in others],
                    averages,
                    squares,
                    [],
                    steps,
                    # On a CPU faster, and the compiler cannot see into it.
                    fused=others[0].is_cpu and not group["capturable"],
                    foreach=group["foreach"],
                    capturable=group["capturable"],
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
        return loss

    def _init_group(
        self, group, weights, momenta, others, averages, squares, steps
    ):
        """Sort what has a gradient into the lists; makes state where none is.

        Name and form are those of torch's optimizers: torch's compiler does
        not trace it, and a step can be captured once the state is there.
        """
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if _is_orthogonalised(parameter, group):
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                weights.append(parameter)
                momenta.append(state["momentum_buffer"])
                continue
            if not state:
                device = parameter.device if group["capturable"] else "cpu"
                state["step"] = torch.zeros(
                    (), dtype=torch.float32, device=device
                )
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            others.append(parameter)
            averages.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
            steps.append(state["step"])


def is_muon(opt_class):
    """Whether what makes an optimizer, a partial of yaml's too, is Muon."""
    made = getattr(opt_class, "func", opt_class)
    return isinstance(made, type) and issubclass(made, Muon)


def _is_orthogonalised(parameter, group):
    dimensions = 2 if group["linears"] else 3
    return group["hidden"] and parameter.dim() >= dimensions


def _orthogonal_step(group, weight, momentum_buffer):
    rate, momentum = group["lr"], group["momentum"]
    momentum_buffer.mul_(momentum).add_(weight.grad)
    # Nesterov's: where the momentum would be after another such gradient.
    ahead = weight.grad.add(momentum_buffer, alpha=momentum)
    update = _orthogonalised(ahead.flatten(1))
    size = 0.2 * max(update.shape) ** 0.5
    weight.mul_(1 - rate * group["weight_decay"])
    weight.sub_(update.reshape(weight.shape) * (rate * size))


def _orthogonalised(matrix):
    """About ``U @ V.T`` of a matrix ``U @ S @ V.T``, by Newton-Schulz."""
    a, b, c = _COEFFICIENTS
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = x.shape[0] > x.shape[1]
    if tall:  # the smaller Gram matrix
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        gram = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, gram, x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
