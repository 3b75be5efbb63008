"""torch.compile, so that a run does not depend on the machine's mood."""

import types

import torch

__all__ = ["compiled", "first_line"]


def compiled(method):
    """A bound method compiled into kernels that no measurement chooses.

    By default the compiler tries some forms of a sum and takes the fastest of
    the moment; a run that is resumed would then add in another order. The
    shapes of tensors must not change between calls.
    """
    from torch._inductor import config  # slow to import

    options = None
    if hasattr(config, "deterministic"):
        options = {"deterministic": True}
    return torch.compile(_with_own_code(method), dynamic=False, options=options)


def _with_own_code(method):
    """The method, with a code object that no other object shares.

    torch.compile makes at most eight programs of a code object: the ninth
    training in a process would run uncompiled, with other rounding.
    """
    function = method.__func__
    own = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return types.MethodType(own, method.__self__)


def first_line(error):
    """A compiler's error as one line for the log."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
