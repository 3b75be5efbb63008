"""Learning rate and margin as functions of the step.

A schedule holds no state, so a resumed run needs none: step ``n`` has the
value of step ``n``.
"""

import math

__all__ = ["CosineSchedule", "LinearRamp"]


class CosineSchedule:
    """Linear warm-up, then half a cosine down to the end.

    I. Loshchilov and F. Hutter, "SGDR", ICLR 2017,
    https://arxiv.org/abs/1608.03983 (without restarts). SpeechBrain's
    ``CyclicCosineScheduler`` counts its own calls and gives all parameter
    groups the same learning rate.

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
        """Value at a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        rest = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / rest)
        swing = (1 + math.cos(math.pi * done)) / 2
        return self.final + (self.peak - self.final) * swing


class LinearRamp:
    """From 0 to a final value in equal steps, then constant.

    A margin's warm-up: early in training the embeddings are too random to
    meet a large margin.

    Arguments
    ---------
    final : float
        The value to reach.
    ramp_steps : int
        Steps to reach it in; 0 for none.

    Example
    -------
    >>> margin = LinearRamp(0.4, ramp_steps=100)
    >>> [round(margin(step), 2) for step in (0, 50, 100, 1000)]
    [0.0, 0.2, 0.4, 0.4]
    """

    def __init__(self, final, ramp_steps=0):
        self.final = final
        self.ramp_steps = ramp_steps

    def __call__(self, step):
        """Value at a step, counted from 0."""
        if step >= self.ramp_steps:
            return self.final
        return self.final * step / self.ramp_steps
