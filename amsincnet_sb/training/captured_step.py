"""A training step captured once as a CUDA graph and replayed.

At a millisecond per step the launches from Python take longer than the work.
A graph holds all of it (forward, loss, backward, clipping, optimizer), so that
the host copies the batch and says "again".
"""

import contextlib
import inspect
import logging
import math
import warnings

import torch

from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.nnet.compiled import compiled, first_line
from amsincnet_sb.training.distributed import RankAgreement, world_size
from amsincnet_sb.training.draws import RepeatedDraws
from amsincnet_sb.training.guard import StepGuard
from amsincnet_sb.training.optimizer_state import (
    fast_update,
    make_capturable,
    undo_capturable,
    without_effect,
)
from amsincnet_sb.training.sharpness import Sharpness

__all__ = ["CapturedStep"]

logger = logging.getLogger(__name__)


class CapturedStep:
    """Forward, backward and update, replayed as one CUDA graph.

    On CUDA the first call compiles the loss and the update, tries them a few
    times, captures them and puts everything back as it was; from there on a
    call, the first one too, is one replay and waits for nothing. A step is
    thus the same function of its batch and of the state, whether a run starts
    or is resumed. Where compiling or capturing is not possible, and on a CPU,
    steps run one kernel at a time; a line in the log says why, and so does
    ``fallback``, because a step that is not compiled draws other dropout masks
    and rounds otherwise. ``captured`` says whether steps are replays.

    A step with a loss or gradient that is NaN or infinite changes nothing;
    see :meth:`read_skipped`.

    Parameters, buffers and the optimizer's state stay ordinary tensors:
    saving needs only a synchronization (``state_dict().cpu()`` is one).
    Loading in place (``Module.load_state_dict``) is seen by the next step;
    after ``Optimizer.load_state_dict``, which replaces tensors, the step is
    captured again by itself. Learning rates may be set between steps, as
    floats in ``optimizer.param_groups``; anything else that is to change must
    be a tensor.

    Arguments
    ---------
    loss_fn : callable
        Maps the tensors of a batch to the scalar loss. It must not read
        tensors on the host nor change shapes.
    optimizer : torch.optim.Optimizer
        Over the parameters to be trained. On CUDA its groups are switched to
        ``capturable`` and to their fastest form.
    max_grad_norm : float
        Gradients are scaled down to this norm; infinity leaves them.
    compile, capture : bool
        Whether to do so on CUDA.
    state : sequence of torch.Tensor
        Tensors that ``loss_fn`` changes in place: buffers of modules, sums.
    agreement : RankAgreement, optional
        Of several processes.
    sharpness_radius : float
        Where it is not 0, gradients are those of the worst weights nearby, see
        :class:`~amsincnet_sb.training.sharpness.Sharpness`. The loss is
        computed once more to find them, which ``state`` does not notice, and
        draws the same random numbers both times.
    apart : callable
        Makes a context in which a process computes a gradient of its own,
        where there are several: each finds the worst weights for its batch.
    draw : callable, optional
        Maps the number of a step, an int64 scalar on the device, to the
        tensors of its batch. It becomes part of the step, and calls are given
        none.

    Example
    -------
    >>> layer = torch.nn.Linear(3, 1)
    >>> train = CapturedStep(
    ...     lambda x: (layer(x) - x.sum(1, keepdim=True)).square().mean(),
    ...     torch.optim.Adam(layer.parameters(), lr=0.1),
    ... )
    >>> for step in range(200):
    ...     train(step, torch.randn(8, 3))
    >>> bool((layer.weight - 1).abs().max() < 0.1)
    True
    """

    # One for the compilers and one in which everything has its final form;
    # DistributedDataParallel asks for eleven before it is captured.
    warmup = 3
    warmup_of_several = 12
    # Skipped steps whose numbers are kept until they are read.
    remembered = 64

    def __init__(
        self,
        loss_fn,
        optimizer,
        max_grad_norm=math.inf,
        compile=True,
        capture=True,
        state=(),
        agreement=None,
        sharpness_radius=0.0,
        apart=contextlib.nullcontext,
        draw=None,
    ):
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.parameters = [
            p for group in optimizer.param_groups for p in group["params"]
        ]
        self.device = self.parameters[0].device
        self.captured = False
        self.fallback = ""
        # Number of the present step, how many were skipped so far, and the
        # numbers of the latest of these.
        self._step = torch.zeros((), dtype=torch.int64, device=self.device)
        self._skipped = self._step.clone()
        self._skipped_steps = self._step.new_zeros(self.remembered)
        self._skipped_read = 0
        self._guard = StepGuard(state)
        self.agreement = agreement or RankAgreement([], self.device)
        self._sharpness = None
        if sharpness_radius:
            self._sharpness = Sharpness(self.parameters, sharpness_radius)
            self._draws = RepeatedDraws(self.device)
        self._apart = apart
        self._loss_fn = loss_fn
        self._draw = draw
        self._inputs = None
        self._forward = self._plain_forward
        self._judge = self._plain_judge
        self._update = self._plain_update
        self._graph = None
        self._rates = [None] * len(optimizer.param_groups)
        cuda = self.device.type == "cuda"
        self._capture = capture and cuda
        self._compile = compile and cuda
        self._to_try = (
            self.warmup if world_size() == 1 else self.warmup_of_several
        )
        if not cuda:
            undo_capturable(optimizer)
        else:
            make_capturable(optimizer, not self._compile, self.device)
            optimizer.register_load_state_dict_post_hook(self._stale)
        self._adamw = fast_update(optimizer) if cuda else None
        # Without the decorators, at which the compiler would break the graph.
        self._optimizer_step = torch.no_grad()(
            inspect.unwrap(type(optimizer).step)
        )
        if self._compile:
            self._forward = compiled(self._forward)
            self._judge = compiled(self._judge)
            self._update = compiled(self._update)

    def __call__(self, step, *batch):
        """Do step number ``step`` with tensors of the same shapes as ever.

        None are given to a step that draws its batch. On CUDA the work may be
        still going on at return.
        """
        if self._inputs is None:
            self._inputs = [x.to(self.device, copy=True) for x in batch]
        else:
            for kept, new in zip(self._inputs, batch, strict=True):
                kept.copy_(new, non_blocking=True)
        self._step.fill_(step)
        if self.device.type != "cuda":
            self._eager()
            return
        self._refresh_rates()
        if self._to_try:
            self._try_out()
        if self._sharpness is not None:
            self._draws.refresh()
        if self._graph is not None:
            self._graph.replay()
            return
        with self._aside():
            self._eager()

    def read_skipped(self):
        """Numbers of the latest steps skipped since the last call; waits."""
        total = int(self._skipped)
        new = min(total - self._skipped_read, self.remembered)
        if not new:
            return []
        self._skipped_read = total
        steps = self._skipped_steps.tolist()
        return [steps[i % self.remembered] for i in range(total - new, total)]

    def release(self):
        """Let go of the captured graph, which holds NCCL's communicator."""
        self._graph = None
        self.captured = False
        self._to_try = max(self._to_try, 1)

    def _try_out(self):
        """Compile and capture, without an effect on anything."""
        changing = [self._skipped, self._skipped_steps, *self._guard.tensors]
        with (
            warnings.catch_warnings(),
            without_effect(self.optimizer, changing),
        ):
            # The spectra of an equalizer are left to cuFFT, as they should be.
            warnings.filterwarnings("ignore", ".*complex operators")
            for _ in range(self._to_try):
                with self._aside():
                    self._try_eager()
            if self._capture:
                self._capture_graph()
        self._to_try = 0

    @contextlib.contextmanager
    def _aside(self):
        """Capturing needs everything allocated on a stream of its own."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def _plain_forward(self):
        if self._draw is None:
            return self._loss_fn(*self._inputs)
        return self._loss_fn(*self._draw(self._step))

    def _eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        self._guard.take()
        if self._sharpness is not None:
            self._climb()
        loss = self._forward()
        self.agreement.start(loss)
        loss.backward()
        if self._sharpness is not None:
            self._sharpness.descend()
        agreed = self.agreement.finish()
        if self.max_grad_norm != math.inf:
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters, self.max_grad_norm
            )
            signs = [norm]
        elif self._adamw is not None:
            signs = [self._adamw.finiteness()]
        else:
            signs = finiteness(
                [p.grad for p in self.parameters if p.grad is not None]
            )
        finite = self._judge([agreed, *signs])
        if self._adamw is not None:
            self._adamw(finite)
        else:
            self._update(finite, self._updated())
        self._guard.restore_unless(finite)

    def _climb(self):
        """Move the weights to where the loss of this step is worst nearby."""
        with self._draws.first(), self._apart():
            loss = self._forward()
        self._sharpness.climb(loss)
        self._guard.restore()

    def _plain_judge(self, signs):
        """Whether all is finite; a step that is not counts as skipped."""
        # Not a decorator, whose code object all functions share.
        with torch.no_grad():
            finite = torch.stack([sign.float() for sign in signs])
            finite = finite.isfinite().all()
            place = torch.arange(self.remembered, device=self.device)
            skipped = (place == self._skipped % self.remembered) & ~finite
            self._skipped_steps.copy_(
                torch.where(skipped, self._step, self._skipped_steps)
            )
            self._skipped.add_(~finite)
        return finite

    def _plain_update(self, finite, tensors):
        """The optimizer's step, which changes ``tensors``, if ``finite``."""
        with torch.no_grad():
            if self.device.type != "cpu":
                self._guarded_update(finite, tensors)
            elif finite:
                self._optimizer_step(self.optimizer)

    def _updated(self):
        """The tensors that the optimizer changes."""
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
        for _ in range(2):
            try:
                self._eager()
                return
            except (RuntimeError, ImportError, OSError) as error:
                reason = first_line(error)
                # Processes share the compiler's files; another one may have
                # been in the way.
                logger.info("The compiler failed: %s.", reason)
        self._fall_back(f"The training step runs uncompiled: {reason}.")
        self._compile = False
        self._forward = self._plain_forward
        self._judge = self._plain_judge
        self._update = self._plain_update
        make_capturable(self.optimizer, True, self.device)
        self._eager()

    def _fall_back(self, sentence):
        logger.warning("%s", sentence)
        self.fallback = sentence

    def _capture_graph(self):
        graph = torch.cuda.CUDAGraph()
        if self._sharpness is not None:
            self._draws.register(graph)
        torch.cuda.synchronize(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            # NCCL has a thread of its own that asks the device.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._eager()
        except RuntimeError as error:
            self._fall_back(
                "The training step runs without a CUDA graph: "
                f"{first_line(error)}."
            )
            torch.cuda.synchronize(self.device)
            # A failed capture leaves the random generator waiting for its
            # end; that of another one serves.
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                torch.zeros((), device=self.device)
            self._capture = False
            return
        if self._adamw is not None:
            self._adamw.finish_capture()
        self._graph = graph
        self.captured = True

    def _refresh_rates(self):
        """Copy learning rates given as floats into the captured tensors."""
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
        make_capturable(self.optimizer, not self._compile, self.device)
