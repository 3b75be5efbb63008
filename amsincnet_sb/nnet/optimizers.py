"""Parameter groups of an optimizer: cut-offs, gains and biases apart."""

# The yaml of results of version 0.1.0 names it here.
from torch.optim import RMSprop  # noqa: F401

from amsincnet_sb.nnet.sinc import SincConv

__all__ = ["parameter_groups"]


def parameter_groups(modules, cutoff_lr_factor=1.0, decay_matrices_only=True):
    """Parameter groups for any torch optimizer.

    The cut-offs of :class:`amsincnet_sb.nnet.sinc.SincConv`, of the order of
    0.01, may need a learning rate of their own. Weight decay pulls towards
    zero, which makes sense for a matrix or a kernel, not for a gain, a bias
    or a frequency.

    Arguments
    ---------
    modules : torch.nn.Module
        Whose parameters.
    cutoff_lr_factor : float
        ``lr_factor`` of the cut-offs' group; 1 for the others. Whoever sets
        the learning rate multiplies by it.
    decay_matrices_only : bool
        Whether gains, biases and cut-offs get ``weight_decay`` 0.

    Returns
    -------
    list of dict
        Groups of the matrices, of the gains and biases (with the matrices if
        all decay) and of the cut-offs, each if there are any.

    Example
    -------
    >>> import torch
    >>> net = torch.nn.Sequential(SincConv(4, 5), torch.nn.Linear(3, 2))
    >>> groups = parameter_groups(net, cutoff_lr_factor=0.1)
    >>> [(len(group["params"]), group["lr_factor"]) for group in groups]
    [(1, 1.0), (1, 1.0), (2, 0.1)]
    """
    if isinstance(cutoff_lr_factor, dict):  # as version 0.1.0 was called
        cutoff_lr_factor = cutoff_lr_factor["lr_factor"]
    cutoffs = [
        parameter
        for module in modules.modules()
        if isinstance(module, SincConv)
        for parameter in module.parameters()
    ]
    ids = {id(parameter) for parameter in cutoffs}
    matrices, vectors = [], []
    for parameter in modules.parameters():
        if id(parameter) not in ids:
            decays = parameter.dim() > 1 or not decay_matrices_only
            (matrices if decays else vectors).append(parameter)
    undecayed = {"weight_decay": 0.0} if decay_matrices_only else {}
    groups = [
        {"params": matrices, "lr_factor": 1.0},
        {"params": vectors, "lr_factor": 1.0, **undecayed},
        {"params": cutoffs, "lr_factor": cutoff_lr_factor, **undecayed},
    ]
    return [group for group in groups if group["params"]]
