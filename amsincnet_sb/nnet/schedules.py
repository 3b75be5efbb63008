"""What parameters get: values over training, and groups of an optimizer.

Schedules are functions of the step alone. They hold no state, so there is nothing to save: a run that goes on from step
``n`` gets the value of step ``n``.
"""

import math

from amsincnet_sb.nnet.sinc import SincConv

__all__ = ["CosineSchedule", "LinearRamp", "parameter_groups"]


class CosineSchedule:
    """Linear warm-up, then half a cosine down to the end.

    I. Loshchilov and F. Hutter, "SGDR", ICLR 2017,
    https://arxiv.org/abs/1608.03983 (without restarts).

    Arguments
    ---------
    peak : float
        Value at the end of the warm-up.
    total_steps : int
        Steps of the run.
    warmup_steps : int
        Steps of the warm-up, which starts at ``peak / warmup_steps``.
    final : float, optional
        Value at the end; ``peak``, i.e. a constant, if not given.

    Example
    -------
    >>> lr = CosineSchedule(1.0, total_steps=100, warmup_steps=10, final=0.0)
    >>> [round(lr(step), 2) for step in (0, 9, 55, 100, 200)]
    [0.1, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, peak, total_steps, warmup_steps=0, final=None):
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.final = peak if final is None else final

    def __call__(self, step):
        """Value of a step.

        Arguments
        ---------
        step : int
            Counted from 0.

        Returns
        -------
        float
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        rest = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / rest)
        swing = (1 + math.cos(math.pi * done)) / 2
        return self.final + (self.peak - self.final) * swing


class LinearRamp:
    """From 0 to a final value in equal steps, then constant.

    As a margin's warm-up: with the whole margin from the first step a large
    one asks of random embeddings what they cannot give.

    Arguments
    ---------
    final : float
        The value to reach.
    ramp_steps : int
        Steps to reach it in; 0 for none.
    start_step : int
        Steps at 0 before that.

    Example
    -------
    >>> margin = LinearRamp(0.4, ramp_steps=100)
    >>> [round(margin(step), 2) for step in (0, 50, 100, 1000)]
    [0.0, 0.2, 0.4, 0.4]
    """

    def __init__(self, final, ramp_steps=0, start_step=0):
        self.final = final
        self.ramp_steps = ramp_steps
        self.start_step = start_step

    def __call__(self, step):
        """Value of a step.

        Arguments
        ---------
        step : int
            Counted from 0.

        Returns
        -------
        float
        """
        if step >= self.start_step + self.ramp_steps:
            return self.final
        ramped = max(0, step - self.start_step)
        return self.final * ramped / max(1, self.ramp_steps)


def parameter_groups(module, cutoffs):
    """Groups for an optimizer: matrices, what decays not, cut-offs.

    Weight decay pulls to zero, which means nothing for a gain, a bias or a
    frequency; and the cut-offs of sinc filters, in units of the sample rate,
    are small numbers that want a rate of their own.

    Arguments
    ---------
    module : torch.nn.Module
        Whose parameters.
    cutoffs : dict
        Further options of the cut-offs' group.

    Returns
    -------
    list of dict
        Three groups, for every torch optimizer that knows ``weight_decay``.

    Example
    -------
    >>> import torch
    >>> net = torch.nn.Sequential(SincConv(4, 5), torch.nn.Linear(3, 2))
    >>> groups = parameter_groups(net, {"lr": 0.1})
    >>> [len(group["params"]) for group in groups], groups[2]["lr"]
    ([1, 1, 2], 0.1)
    """
    frequencies = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, SincConv)
        for parameter in part.parameters()
    }
    rest = [p for p in module.parameters() if id(p) not in frequencies]
    return [
        {"params": [p for p in rest if p.dim() > 1]},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        {
            "params": [p for p in module.parameters() if id(p) in frequencies],
            "weight_decay": 0.0,
            **cutoffs,
        },
    ]
