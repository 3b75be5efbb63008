"""A whole training step as one replay of a CUDA graph.

At a millisecond a step the launches from Python cost more than the work. A
graph recorded once holds all of it (drawing the examples, forward, loss,
backward, clipping, optimizer), so that the host only says "again".
"""

import logging
import math

import torch

__all__ = ["TrainingStep", "unrecord_optimizer"]

logger = logging.getLogger(__name__)


class TrainingStep:
    """Draw, forward, backward and update, as fast as the device allows.

    On CUDA the loss is compiled, the first steps run one kernel at a time,
    and then the step is recorded as a CUDA graph; from there on a call is one
    replay and waits for nothing. All calls are real steps, and the step
    number is a tensor on the device, so that a step is the same function of
    the state and of its number in either form. Where compiling or recording
    is not possible, and on a CPU, every step runs one kernel at a time; a
    line in the log says why.

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

    def __init__(
        self,
        loss_fn,
        optimizer,
        names=("loss",),
        max_grad_norm=math.inf,
        compile=True,
        graph=True,
        step=0,
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
        # Sums of what loss_fn gives, then of losses that are not finite.
        self._totals = torch.zeros(
            len(self.names) + 1, dtype=torch.float64, device=self.device
        )
        self._steps_read = step
        self._loss_fn = loss_fn
        self._forward = self._plain_forward
        self._update = self.optimizer.step
        self._graph = None
        self._rates = [None] * len(optimizer.param_groups)
        self._want_graph = graph and self._can_record()
        self._left = self.warmup
        self._compile = compile and self.device.type == "cuda"
        if self.device.type != "cuda":
            unrecord_optimizer(optimizer)
        else:
            self._prepare_optimizer()
            optimizer.register_load_state_dict_post_hook(self._stale)
        if self._compile:
            self._forward = torch.compile(self._forward, dynamic=False)
            self._update = torch.compile(self._update, dynamic=False)

    def __call__(self):
        """Do one step. On CUDA the work may be still going on at return."""
        if self._graph is not None:
            self._refresh_rates()
            self._graph.replay()
            return
        if self.device.type != "cuda":
            self._eager()
            return
        # Recording needs everything allocated on a stream of its own.
        self._refresh_rates()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._try_eager()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self._left -= 1
        if self._want_graph and self._left <= 0:
            self._record()

    def read(self):
        """Means since the last call; waits for the device.

        Returns
        -------
        dict
            A mean for each of ``names``, ``steps``, the number of steps it
            is over, and ``nonfinite``, the number of those whose loss was
            not a finite number.
        """
        step = int(self.step)
        count = step - self._steps_read
        *sums, nonfinite = self._totals.tolist()
        self._totals.zero_()
        self._steps_read = step
        means = {n: s / max(count, 1) for n, s in zip(self.names, sums)}
        return {**means, "steps": count, "nonfinite": int(nonfinite)}

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
        values.append((~torch.isfinite(values[0])).double())
        return out[0], torch.stack(values)

    def _eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss, values = self._forward()
        loss.backward()
        # Not within the forward pass: a compiled backward pass may compute
        # again what depends on the step's number.
        self._totals.add_(values)
        self.step.add_(1)
        if self.max_grad_norm != math.inf:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self._update()

    def _try_eager(self):
        """One step; where the compiler fails, without it from now on."""
        if not self._compile:
            self._eager()
            return
        before = self.step.clone(), self._totals.clone()
        try:
            self._eager()
        except (RuntimeError, ImportError) as error:
            logger.warning(
                "The training step runs uncompiled: %s.", _first_line(error)
            )
            self.step.copy_(before[0])
            self._totals.copy_(before[1])
            self._compile = False
            self._forward = self._plain_forward
            self._update = self.optimizer.step
            self._prepare_optimizer()
            self._eager()

    def _record(self):
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph):
                self._eager()
        except RuntimeError as error:
            logger.warning(
                "The training step runs without a CUDA graph: %s.",
                _first_line(error),
            )
            torch.cuda.synchronize(self.device)
            self._want_graph = False
            return
        self._graph = graph
        self.recorded = True

    def _can_record(self):
        """Whether a graph is possible; says why not."""
        if self.device.type != "cuda":
            return False
        distributed = torch.distributed
        if (
            distributed.is_available()
            and distributed.is_initialized()
            and distributed.get_world_size() > 1
        ):
            logger.warning(
                "The training step runs without a CUDA graph: there are "
                "several processes."
            )
            return False
        return True

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
        self._graph = None
        self.recorded = False
        self._left = 1
        self._prepare_optimizer()


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
