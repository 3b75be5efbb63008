"""A whole training step as one replay of a CUDA graph.

At a millisecond a step the launches from Python cost more than the work. A
graph recorded once holds all of it (drawing the examples, forward, loss,
backward, clipping, optimizer), so that the host only says "again".
"""

import contextlib
import inspect
import logging
import math
import types
import warnings

import torch

from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.training.distributed import GradientReducer

__all__ = ["TrainingStep", "unrecord_optimizer", "without_effect"]

logger = logging.getLogger(__name__)


class TrainingStep:
    """Draw, forward, backward and update, as fast as the device allows.

    On CUDA the first call compiles the loss and the update, tries them a few
    times, records them as a CUDA graph and puts everything back as it was;
    from there on a call, the first one too, is one replay and waits for
    nothing. A step is thus the same function of the state and of its number,
    a tensor on the device, whether a run starts or goes on with it. Where
    compiling or recording is not possible, and on a CPU, every step runs one
    kernel at a time; a line in the log says why.

    A step whose loss or gradient is not finite changes nothing but the step
    number; see :meth:`read_skipped`.

    Parameters, buffers and the optimizer's state stay ordinary tensors:
    saving needs only a synchronization (``state_dict().cpu()`` is one).
    Loading in place (``Module.load_state_dict``) is seen by the next step;
    after ``Optimizer.load_state_dict``, which puts new tensors in place of
    the old ones, the step is recorded again by itself. Learning rates may be
    set between steps, as numbers in ``optimizer.param_groups``; what else is
    to change has to be a tensor.

    Arguments
    ---------
    loss_fn : callable
        Maps the number of the step, a scalar int64 tensor on the device, to
        the loss or to a tuple of it and further scalar tensors to be
        averaged. It must not read tensors on the host nor change shapes.
    optimizer : torch.optim.Optimizer
        Over the parameters to be trained. On CUDA its groups are switched to
        ``capturable`` and to their fastest form.
    names : sequence of str
        Of what ``loss_fn`` gives.
    max_grad_norm : float
        Gradients are scaled down to this norm; infinity leaves them.
    compile : bool
        Compile the loss and the optimizer (CUDA).
    graph : bool
        Record a CUDA graph (CUDA).
    step : int
        Number of the first step.
    state : sequence of torch.Tensor
        What ``loss_fn`` changes in place: buffers of modules, sums.
    reducer : GradientReducer, optional
        Averages the gradients of several processes.

    Attributes
    ----------
    step : torch.Tensor
        Number of the next step; ``fill_`` it when resuming.
    recorded : bool
        Whether steps are replays of a graph.

    Example
    -------
    >>> layer = torch.nn.Linear(3, 1)
    >>> x = torch.randn(8, 3)
    >>> train = TrainingStep(
    ...     lambda step: (layer(x) - x.sum(1, keepdim=True)).square().mean(),
    ...     torch.optim.Adam(layer.parameters(), lr=0.1),
    ... )
    >>> for _ in range(200):
    ...     train()
    >>> train.step.item()
    200
    >>> means = train.read()
    >>> means["steps"], means["nonfinite"], means["loss"] < 1.0
    (200, 0, True)
    """

    # One for the compilers and one in which everything has its final form.
    warmup = 3
    # Skipped steps whose numbers are kept until they are read.
    remembered = 64

    def __init__(
        self,
        loss_fn,
        optimizer,
        names=("loss",),
        max_grad_norm=math.inf,
        compile=True,
        graph=True,
        step=0,
        state=(),
        reducer=None,
    ):
        self.optimizer = optimizer
        self.names = tuple(names)
        self.max_grad_norm = max_grad_norm
        self.parameters = [
            p for group in optimizer.param_groups for p in group["params"]
        ]
        self.device = self.parameters[0].device
        self.step = torch.tensor(step, device=self.device)
        self.recorded = False
        # Sums of what loss_fn gives.
        self._totals = torch.zeros(
            len(self.names), dtype=torch.float64, device=self.device
        )
        self._steps_read = step
        # How many steps were skipped so far, and the numbers of the latest.
        self._skipped = torch.zeros((), dtype=torch.int64, device=self.device)
        self._skipped_steps = self._skipped.new_zeros(self.remembered)
        self._skipped_read = self._skipped_counted = 0
        self._state = _Snapshot([*state, self._totals])
        self.reducer = reducer or GradientReducer(self.parameters)
        self._loss_fn = loss_fn
        self._forward = self._plain_forward
        self._finish = self._plain_finish
        self._graph = None
        self._rates = [None] * len(optimizer.param_groups)
        self._want_graph = graph and self.device.type == "cuda"
        self._left = self.warmup
        self._compile = compile and self.device.type == "cuda"
        if self.device.type != "cuda":
            unrecord_optimizer(optimizer)
        else:
            self._prepare_optimizer()
            optimizer.register_load_state_dict_post_hook(self._stale)
        # Without the decorators, which break what the compiler sees in two.
        self._optimizer_step = torch.no_grad()(
            inspect.unwrap(type(optimizer).step)
        )
        if self._compile:
            self._forward = _compiled(self._forward)
            self._finish = _compiled(self._finish)

    def __call__(self):
        """Do one step. On CUDA the work may be still going on at return."""
        if self.device.type != "cuda":
            self._eager()
            return
        self._refresh_rates()
        if self._left:
            self._try_out()
        if self._graph is not None:
            self._graph.replay()
            return
        with self._aside():
            self._eager()

    def _try_out(self):
        """Compile and record, without an effect on anything."""
        changing = [
            *self._state.tensors,
            self.step,
            self._skipped,
            self._skipped_steps,
        ]
        with (
            warnings.catch_warnings(),
            without_effect(self.optimizer, changing),
        ):
            # The spectra of an equalizer are left to cuFFT, as they should.
            warnings.filterwarnings("ignore", ".*complex operators")
            for _ in range(self._left):
                with self._aside():
                    self._try_eager()
            if self._want_graph:
                self._record()
        self._left = 0

    @contextlib.contextmanager
    def _aside(self):
        """Recording needs everything allocated on a stream of its own."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def read(self):
        """Means since the last call; waits for the device.

        Returns
        -------
        dict
            A mean for each of ``names`` and ``steps``, the number of steps
            it is over; ``nonfinite``, the number of steps that were skipped.
        """
        step = int(self.step)
        sums = self._totals.tolist()
        skipped = int(self._skipped)
        nonfinite = skipped - self._skipped_counted
        count = step - self._steps_read - nonfinite
        self._totals.zero_()
        self._steps_read, self._skipped_counted = step, skipped
        means = {n: s / max(count, 1) for n, s in zip(self.names, sums)}
        return {**means, "steps": count, "nonfinite": nonfinite}

    def read_skipped(self):
        """Numbers of the steps skipped since the last call; waits.

        Returns
        -------
        list of int
            The latest ones, if there are more than ``remembered``.
        """
        total = int(self._skipped)
        new = min(total - self._skipped_read, self.remembered)
        if not new:
            return []
        self._skipped_read = total
        steps = self._skipped_steps.tolist()
        return [steps[i % self.remembered] for i in range(total - new, total)]

    def release(self):
        """Let go of the recorded graph, which holds NCCL's communicator."""
        self._graph = None
        self.recorded = False
        self._left = max(self._left, 1)

    def seek(self, step):
        """Go on with another step number, as after loading a checkpoint.

        Arguments
        ---------
        step : int
            Number of the next step.
        """
        self.step.fill_(step)
        self._totals.zero_()
        self._steps_read = step

    def _plain_forward(self):
        """The loss, and what is to be added to the totals."""
        out = self._loss_fn(self.step)
        out = out if isinstance(out, tuple) else (out,)
        values = [value.detach().double() for value in out]
        return out[0], torch.stack(values)

    def _eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        self._state.take()
        loss, values = self._forward()
        self.reducer.forwarded(loss)
        loss.backward()
        # Not within the forward pass: a compiled backward pass may compute
        # again what depends on the step's number.
        self._totals.add_(values)
        finite = self.reducer.finish()
        if self.max_grad_norm != math.inf:
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters, self.max_grad_norm
            )
            signs = [norm]
        else:
            signs = self.reducer.signs or finiteness(
                [p.grad for p in self.parameters if p.grad is not None]
            )
        finite = self._finish(finite, signs, self._updated())
        self._state.restore_unless(finite)

    def _plain_finish(self, finite, signs, updated):
        """Update if all is finite; says whether. Compiled, a few kernels."""
        # Not a decorator, whose code all functions share.
        with torch.no_grad():
            finite = finite & torch.stack(signs).isfinite().all()
            if self.device.type != "cpu":
                self._guarded_update(finite, updated)
            elif finite:
                self._optimizer_step(self.optimizer)
            place = torch.arange(self.remembered, device=self.device)
            skipped = (place == self._skipped % self.remembered) & ~finite
            self._skipped_steps.copy_(
                torch.where(skipped, self.step, self._skipped_steps)
            )
            self._skipped.add_(~finite)
            self.step.add_(1)
        return finite

    def _updated(self):
        """What the optimizer changes."""
        states = self.optimizer.state.values()
        return self.parameters + [
            value
            for state in states
            for value in state.values()
            if torch.is_tensor(value)
        ]

    @torch.no_grad()
    def _guarded_update(self, finite, tensors):
        """The optimizer's step, or none, without asking the device."""
        before = [tensor.clone() for tensor in tensors]
        self._optimizer_step(self.optimizer)
        for tensor, old in zip(tensors, before):
            tensor.copy_(torch.where(finite, tensor, old))

    def _try_eager(self):
        """One step; where the compiler fails, without it from now on."""
        if not self._compile:
            self._eager()
            return
        try:
            self._eager()
        except (RuntimeError, ImportError) as error:
            logger.warning(
                "The training step runs uncompiled: %s.", _first_line(error)
            )
            self._compile = False
            self._forward = self._plain_forward
            self._finish = self._plain_finish
            self._prepare_optimizer()
            self._eager()

    def _record(self):
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            # NCCL has a thread of its own that asks the device.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._eager()
        except RuntimeError as error:
            logger.warning(
                "The training step runs without a CUDA graph: %s.",
                _first_line(error),
            )
            torch.cuda.synchronize(self.device)
            # A recording that failed leaves the generator of random numbers
            # waiting for its end; that of another one serves.
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                torch.zeros((), device=self.device)
            self._want_graph = False
            return
        self._graph = graph
        self.recorded = True

    def _prepare_optimizer(self):
        """Switch to forms that can be recorded and are fast.

        The compiler makes one kernel of the ``foreach`` form, which beats
        the ready-made fused ones.
        """
        fused = not self._compile and isinstance(
            self.optimizer,
            (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD),
        )
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
            group["foreach"] = not fused
            if "fused" in group:
                group["fused"] = fused
        for state in self.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].to(self.device)
            for value in filter(torch.is_tensor, state.values()):
                # The compiler marks a state, copies and checkpoints keep the
                # mark, and of a marked one it makes another program, which
                # rounds otherwise.
                vars(value).pop("_dynamo_static_input_type", None)

    def _refresh_rates(self):
        """Copy learning rates given as numbers into the recorded tensors."""
        for i, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if rate is self._rates[i]:
                continue
            if self._rates[i] is None:
                self._rates[i] = torch.tensor(float(rate), device=self.device)
            else:
                self._rates[i].fill_(float(rate))
            group["lr"] = self._rates[i]

    def _stale(self, *_):
        self.release()
        self._prepare_optimizer()


def _compiled(method):
    """Compiled into kernels that do not depend on what was measured.

    The compiler would try some forms of a sum and take the fastest of the
    moment; a run that goes on elsewhere would then add up in another order.
    """
    from torch._inductor import config  # slow to import

    options = None
    if hasattr(config, "deterministic"):
        options = {"deterministic": True}
    return torch.compile(_with_own_code(method), dynamic=False, options=options)


def _with_own_code(method):
    """The method, as code that no other object's has been compiled from.

    Of one piece of code the compiler makes eight programs; the ninth training
    in a process would not be compiled, and round otherwise.
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


class _Snapshot:
    """Values of some tensors, and the way back to them.

    They travel together, as bytes: a few small kernels, however many tensors
    there are.
    """

    def __init__(self, tensors):
        self.tensors = list(tensors)
        self._bytes = [t.view(-1).view(torch.uint8) for t in self.tensors]
        sizes = [len(part) for part in self._bytes]
        flat = torch.cat(self._bytes)
        self._old, self._now = flat, flat.clone()
        self._old_parts = self._old.split(sizes)
        self._now_parts = self._now.split(sizes)

    @torch.no_grad()
    def take(self):
        """Remember the present values."""
        torch._foreach_copy_(self._old_parts, self._bytes)

    @torch.no_grad()
    def restore_unless(self, finite):
        """Go back to them where a scalar tensor is False."""
        torch._foreach_copy_(self._now_parts, self._bytes)
        torch.where(finite, self._now, self._old, out=self._now)
        torch._foreach_copy_(self._bytes, self._now_parts)


@contextlib.contextmanager
def without_effect(optimizer, tensors=()):
    """Leave parameters, optimizer state and tensors as they are found.

    What happens inside may change them in place; afterwards they are the
    same objects with the same values, and so is the device's generator of
    random numbers. Optimizer state that did not exist before is there
    afterwards, as it is before an optimizer's first step, so that a graph
    recorded inside knows it already.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Its parameters, too, are put back.
    tensors : sequence of torch.Tensor
        Others that change.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 1)
    >>> before = layer.weight.detach().clone()
    >>> optimizer = torch.optim.Adam(layer.parameters())
    >>> with without_effect(optimizer):
    ...     layer(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> torch.equal(layer.weight, before)
    True
    >>> float(optimizer.state[layer.weight]["step"])
    0.0
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
    numbers = torch.cuda if cuda else torch.random
    arguments = [device] if cuda else []
    generator = numbers.get_rng_state(*arguments)
    yield
    numbers.set_rng_state(generator, *arguments)
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


def unrecord_optimizer(optimizer):
    """Undo what recording did to an optimizer, in place.

    Its checkpoints carry the settings of a recorded step: learning rates as
    tensors and ``capturable``, which other devices and the ordinary step
    refuse. Call this after loading such a checkpoint for one of those.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Of any kind, recorded or not.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 2)
    >>> rate = torch.tensor(0.5)
    >>> adam = torch.optim.Adam(layer.parameters(), lr=rate, capturable=True)
    >>> unrecord_optimizer(adam)
    >>> adam.param_groups[0]["lr"], adam.param_groups[0]["capturable"]
    (0.5, False)
    """
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])
        for setting, ordinary in (
            ("capturable", False),
            ("foreach", None),
            ("fused", None),
        ):
            if setting in group:
                group[setting] = ordinary
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].cpu()


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
