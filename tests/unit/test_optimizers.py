"""Parameter groups: whose learning rate and weight decay each parameter has."""

import torch

from amsincnet_sb.lobes.features import SincFeatures
from amsincnet_sb.nnet.optimizers import parameter_groups
from amsincnet_sb.nnet.sinc import SincConv


def test_every_parameter_has_its_options():
    net = torch.nn.Sequential(
        SincConv(4, 5),
        torch.nn.Conv1d(4, 3, 5),
        torch.nn.BatchNorm1d(3),
        SincFeatures(out_channels=4),
        torch.nn.Linear(3, 2),
    )
    groups = parameter_groups(net, 0.1)
    # A checkpoint's optimizer state fits a run with another factor.
    sizes, others = (
        [len(group["params"]) for group in made]
        for made in (groups, parameter_groups(net))
    )
    assert sizes == others
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert set(found) == {id(p) for p in net.parameters()}
    for name, parameter in net.named_parameters():
        group = found[id(parameter)]
        is_cutoff = name.split(".")[-1] in ("low", "band")
        assert group["lr_factor"] == (0.1 if is_cutoff else 1.0), name
        undecayed = parameter.dim() < 2
        assert group.get("weight_decay") == (0.0 if undecayed else None), name


def test_a_network_without_filters_has_no_empty_group():
    groups = parameter_groups(torch.nn.Linear(3, 2, bias=False))
    assert [len(group["params"]) for group in groups] == [1]
    torch.optim.AdamW(groups, lr=0.1).step()
