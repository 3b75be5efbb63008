"""What capturing a training step as a CUDA graph asks of an optimizer."""

import contextlib
import inspect

import torch

__all__ = [
    "fast_update",
    "make_capturable",
    "undo_capturable",
    "without_effect",
]


def fast_update(optimizer):
    """A function of our own that does an optimizer's step, or None.

    See :class:`amsincnet_sb.kernels.cuda.adamw.AdamWUpdate`.
    """
    from amsincnet_sb.kernels.cuda.adamw import AdamWUpdate  # slow to import

    return AdamWUpdate(optimizer) if AdamWUpdate.fits(optimizer) else None


def make_capturable(optimizer, fused, device):
    """Switch an optimizer, in place, to the form that can be captured.

    ``fused`` takes torch's fused kernels where there are some; compiled, the
    ``foreach`` form becomes one kernel, which is faster.
    """
    fused = fused and isinstance(
        optimizer, (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    )
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        group["foreach"] = not fused
        if "fused" in group:
            group["fused"] = fused
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(device)
        for value in filter(torch.is_tensor, state.values()):
            # The compiler marks the state; the mark travels in copies and
            # checkpoints, and marked tensors get another program, with other
            # rounding.
            vars(value).pop("_dynamo_static_input_type", None)


def undo_capturable(optimizer):
    """Undo :func:`make_capturable`, in place.

    Checkpoints of a captured step carry its settings: learning rates as
    tensors and ``capturable``, which other devices and SpeechBrain's step
    refuse. Call this after loading such a checkpoint for one of those.
    """
    ordinary = {"capturable": False, "foreach": None, "fused": None}
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])
        group.update({k: v for k, v in ordinary.items() if k in group})
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].cpu()


@contextlib.contextmanager
def without_effect(optimizer, tensors=()):
    """Leave parameters, optimizer state and ``tensors`` as they are found.

    Afterwards they are the same objects with the same values, and so is the
    device's random generator. Optimizer state that did not exist before is
    there afterwards, with the values it has before the first step, so that a
    graph captured inside already refers to it.
    """
    parameters = [
        p for group in optimizer.param_groups for p in group["params"]
    ]
    device = parameters[0].device
    _make_state(optimizer, parameters)
    kept = [(t, t.detach().clone()) for t in [*parameters, *tensors]]
    states = {
        parameter: {
            name: value.clone() if torch.is_tensor(value) else value
            for name, value in optimizer.state[parameter].items()
        }
        for parameter in parameters
        if parameter in optimizer.state
    }
    cuda = device.type == "cuda"
    random = torch.cuda if cuda else torch.random
    arguments = [device] if cuda else []
    generator = random.get_rng_state(*arguments)
    yield
    random.set_rng_state(generator, *arguments)
    with torch.no_grad():
        for tensor, value in kept:
            tensor.copy_(value)
        for parameter in parameters:
            before = states.get(parameter, {})
            state = optimizer.state.get(parameter, {})
            for name, value in list(state.items()):
                if not torch.is_tensor(value):
                    state[name] = before.get(name)
                elif torch.is_tensor(before.get(name)):
                    value.copy_(before[name])
                else:  # momentum, which starts from zero
                    value.zero_()
    optimizer.zero_grad(set_to_none=True)


def _make_state(optimizer, parameters):
    """Let an optimizer make the state that it has before its first step."""
    make = getattr(optimizer, "_init_group", None)
    if make is None or optimizer.state:
        return
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    lists = len(inspect.signature(make).parameters) - 1
    with contextlib.suppress(TypeError), torch.no_grad():
        for group in optimizer.param_groups:
            make(group, *([] for _ in range(lists)))
    optimizer.zero_grad(set_to_none=True)
