"""Parameter groups of an optimizer: cut-offs, gains and biases apart."""

from torch import nn
from torch.optim import RMSprop as RMSprop  # by files of 0.1.0, from here

__all__ = ["parameter_groups"]


def parameter_groups(modules, cutoff_lr_factor=1.0, hidden=None):
    """Parameter groups of the matrices, gains and biases, and cut-offs.

    The cut-offs of :class:`amsincnet_sb.nnet.sinc.SincConv`, of the order of
    0.01, and those of :mod:`amsincnet_sb.nnet.filterbanks` may need a learning
    rate of their own: whoever sets it multiplies by the group's ``lr_factor``,
    which is ``cutoff_lr_factor`` for them, else 1.
    Weight decay pulls towards zero, which makes sense for a matrix or a
    kernel, not for the gain or bias of a channel or a frequency: their groups
    have none. The gains and biases that
    :class:`amsincnet_sb.nnet.normalization.TimeLayerNorm` has for each channel
    and time are matrices here: what is published was trained so.

    For :class:`amsincnet_sb.nnet.muon.Muon`, ``hidden`` is the network within
    ``modules`` whose convolutions and fully connected layers it orthogonalises:
    their weights get a group of their own, and all groups say by their
    ``hidden`` which it is. Without it groups are as every optimizer's.

    Example
    -------
    >>> import torch
    >>> from amsincnet_sb.nnet.sinc import SincConv
    >>> net = torch.nn.Sequential(SincConv(4, 5), torch.nn.Linear(3, 2))
    >>> groups = parameter_groups(net, cutoff_lr_factor=0.1)
    >>> [(len(group["params"]), group["lr_factor"]) for group in groups]
    [(1, 1.0), (1, 1.0), (2, 0.1)]
    """
    cutoffs = [
        parameter
        for module in modules.modules()
        for parameter in getattr(module, "filter_parameters", ())
    ]
    ids = {id(parameter) for parameter in cutoffs}
    others = [p for p in modules.parameters() if id(p) not in ids]
    weights = _layer_weights(hidden, others)
    ids = {id(weight) for weight in weights}
    others = [p for p in others if id(p) not in ids]
    matrices = [p for p in others if p.dim() > 1]
    vectors = [p for p in others if p.dim() <= 1]
    groups = [
        {"params": matrices, "lr_factor": 1.0},
        {"params": vectors, "lr_factor": 1.0, "weight_decay": 0.0},
        {
            "params": cutoffs,
            "lr_factor": cutoff_lr_factor,
            "weight_decay": 0.0,
        },
    ]
    if hidden is not None:
        groups = [{**group, "hidden": False} for group in groups]
        groups.insert(0, {"params": weights, "lr_factor": 1.0, "hidden": True})
    return [group for group in groups if group["params"]]


def _layer_weights(network, parameters):
    """Those of the parameters that are weights of a network's layers."""
    modules = () if network is None else network.modules()
    kinds = (nn.Conv1d, nn.Linear)
    ids = {id(m.weight) for m in modules if isinstance(m, kinds)}
    return [p for p in parameters if id(p) in ids]
