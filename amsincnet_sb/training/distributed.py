"""Several processes: what they tell each other, and when."""

from functools import partial

import torch
import torch.distributed as dist
from speechbrain.utils.distributed import (
    MainProcessContext,
    if_main_process,
    is_distributed_initialized,
)

from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "GradientReducer",
    "add_over_ranks",
    "any_rank",
    "common_error",
    "cut_compiled_step",
    "on_main",
    "rank",
    "same_on_all_ranks",
    "world_size",
]

BUCKET_BYTES = 16 * 2**20
# A multiprocessor copies so many numbers at a time; a whole weight each would
# leave most of them idle.
PIECE = 2**14


def world_size():
    """Number of processes that train together; 1 without torchrun.

    Example
    -------
    >>> world_size()
    1
    """
    return dist.get_world_size() if is_distributed_initialized() else 1


def rank():
    """Number of this process among them, from 0.

    Example
    -------
    >>> rank()
    0
    """
    return dist.get_rank() if is_distributed_initialized() else 0


def on_main(function, *args, **kwargs):
    """Run something on the main process alone; its errors reach all.

    As SpeechBrain's ``run_on_main``, under which the others would wait for
    ever when the main process gives up.

    Arguments
    ---------
    function : callable
        What to run.
    *args, **kwargs
        For it.

    Returns
    -------
    object
        What it returned, on every process.

    Raises
    ------
    InputError
        If it raised one, on every process.

    Example
    -------
    >>> on_main(max, 3, 4)
    4
    """
    if world_size() == 1:
        return function(*args, **kwargs)
    answer = [None, None]
    if if_main_process():
        try:
            # No barrier in what it calls: the others are not there.
            with MainProcessContext():
                answer[0] = function(*args, **kwargs)
        except InputError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    result, problem = answer
    if problem is not None:
        raise common_error(problem)
    return result


def add_over_ranks(tensor):
    """Sum of a tensor over all processes, in place.

    Arguments
    ---------
    tensor : torch.Tensor
        Of the same shape on each; on the device of the backend.

    Returns
    -------
    torch.Tensor
        The same.
    """
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_rank(flags, device="cpu"):
    """Whether any process says so, for each of some questions.

    Arguments
    ---------
    flags : sequence of bool
        The answers of this process; equally many on each.
    device : str
        One that the backend serves. Waits for it.

    Returns
    -------
    list of bool
        The same on every process.

    Example
    -------
    >>> any_rank([False, True])
    [False, True]
    """
    if world_size() == 1:
        return list(flags)
    joined = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(joined, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in joined.tolist()]


def same_on_all_ranks(value, what):
    """Stop where processes that must agree do not.

    Arguments
    ---------
    value : str
        Of this process.
    what : str
        Begins the sentence, such as "The checkpoint in save/".

    Raises
    ------
    InputError
        On every process.
    """
    if world_size() == 1:
        return
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    for other, answer in enumerate(values):
        if answer != values[0]:
            raise common_error(
                f"{what} is {values[0]} for process 0 but {answer} for "
                f"process {other}; all must see the same folder."
            )


def common_error(sentence):
    """An error that all processes raise, of which one is to tell it.

    Arguments
    ---------
    sentence : str
        The message.

    Returns
    -------
    InputError

    Example
    -------
    >>> common_error("Nothing works.").told_elsewhere
    False
    """
    error = InputError(sentence)
    error.told_elsewhere = not if_main_process()
    return error


def cut_compiled_step(module):
    """Have the compiler make two backward passes of one.

    Gradients leave a compiled backward pass when all of it is done. Cut
    before a module, those behind it leave first.

    Arguments
    ---------
    module : torch.nn.Module
        Called once in the forward pass; changed in place.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        Its ``remove()`` undoes it.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 2)
    >>> cut_compiled_step(layer).remove()
    """
    return module.register_forward_pre_hook(_do_not_compile)


@torch.compiler.disable
def _do_not_compile(module, inputs):
    return None


class GradientReducer:
    """Averages gradients over processes while others are still computed.

    Takes the place of DistributedDataParallel in a step that is recorded as
    a CUDA graph: it wraps no module, and what it starts is recorded with the
    backward pass. Gradients are put end to end in buckets, in the reverse
    order of the parameters; as soon as one is complete, unless it is the last,
    its sum over the processes starts, on a stream of its own. A parameter
    without a gradient counts as one with zeros.

    A step calls :meth:`forwarded`, the backward pass and :meth:`finish`.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
        In the same order on every process.
    averages : sequence of torch.Tensor
        float32 tensors that the forward pass changes and that are averaged
        too, such as the running statistics of BatchNorm.
    dtype : torch.dtype, optional
        What gradients are sent and added in; the default is their own.
        ``torch.bfloat16`` halves the traffic.
    bucket_bytes : int
        A bucket is closed when it has this size.
    closing : sequence of torch.nn.Parameter
        A bucket is closed behind each of these: where a compiled step is cut
        in two, so that none waits for gradients of both sides.

    Attributes
    ----------
    enabled : bool
        False while gradients are only accumulated.
    signs : list of torch.Tensor
        Of several GPUs, after :meth:`finish`: scalars that are finite if all
        gradients are. Else nothing.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 1)
    >>> reducer = GradientReducer(layer.parameters())
    >>> loss = layer(torch.ones(1, 2)).sum()
    >>> reducer.forwarded(loss)
    >>> loss.backward()
    >>> reducer.finish()  # nothing to do for one process
    tensor(True)
    """

    def __init__(
        self,
        parameters,
        averages=(),
        dtype=None,
        bucket_bytes=BUCKET_BYTES,
        closing=(),
    ):
        self.enabled = True
        self.averages = [average.view(-1) for average in averages]
        self.signs = []
        self._hooks = []
        self._alone = world_size() == 1
        self._finite = None
        if self._alone:
            return
        parameters = [p for p in parameters if p.requires_grad]
        self.device = parameters[0].device
        self._buckets, self._next, open_ones = [], 0, {}
        closing = {id(parameter) for parameter in closing}
        for parameter in reversed(parameters):
            bucket = open_ones.get(parameter.dtype)
            if bucket is None or bucket.bytes >= bucket_bytes:
                bucket = open_ones[parameter.dtype] = _Bucket()
                self._buckets.append(bucket)
            bucket.add(parameter)
            if id(parameter) in closing:
                open_ones.clear()
        for bucket in self._buckets:
            bucket.make_buffer(dtype)
            for parameter in bucket.parameters:
                hook = parameter.register_post_accumulate_grad_hook(
                    lambda _, bucket=bucket: self._arrived(bucket)
                )
                self._hooks.append(hook)
        # With a place for whether the loss is finite, which concerns all.
        sizes = [*(a.numel() for a in self.averages), 1]
        self._flat = torch.zeros(sum(sizes), device=self.device)
        self._places = self._flat.split(sizes)
        self._afterwards = []
        self._stream = None
        # A division less, where the network of GPUs can do it on the way.
        self._nccl = dist.get_backend() == "nccl"
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)

    @torch.no_grad()
    def forwarded(self, loss):
        """Say that the forward pass is over; starts the averages.

        Arguments
        ---------
        loss : torch.Tensor
            Scalar.
        """
        self._finite = torch.isfinite(loss.detach())
        self.signs = []
        if self._alone or not self.enabled:
            return
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._next = 0

        self._afterwards = []
        self._start(self._flat, self._fill_averages)

    @torch.no_grad()
    def finish(self):
        """Wait (the device, not the host) until all gradients are averages.

        Returns
        -------
        torch.Tensor
            Scalar bool: whether the loss is finite in every process.
        """
        if self._alone or not self.enabled:
            return self._finite
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        for bucket in self._buckets[self._next :]:
            bucket.fill_gaps()
            self._reduce(bucket, beside=False)
        self._next = len(self._buckets)
        for then in self._afterwards:
            then()
        # Only now: the backward pass needs what was there.
        if self.averages:
            torch._foreach_copy_(self.averages, self._places[:-1])
        return self._places[-1][0] == 0

    def detach(self):
        """Let go of the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, bucket):
        """A gradient is there."""
        if not self.enabled:
            return
        bucket.missing -= 1
        # In the same order everywhere, whatever the order they arrive in. The
        # last one has nothing beside which it could travel.
        while (
            self._next < len(self._buckets) - 1
            and self._buckets[self._next].missing == 0
        ):
            self._reduce(self._buckets[self._next])
            self._next += 1

    def _fill_averages(self):
        if self.averages:
            torch._foreach_copy_(self._places[:-1], self.averages)
        self._places[-1].copy_(~self._finite)

    @torch.no_grad()
    def _reduce(self, bucket, beside=True):
        """Replace a bucket's gradients by their means over the processes."""
        self._start(bucket.buffer, bucket.fill, bucket.empty, beside)

    def _start(self, buffer, fill, empty=None, beside=True):
        """Fill a buffer, average it over the processes, take that out."""
        if self._stream is None:
            fill()
            work = dist.all_reduce(buffer, async_op=True)
            self._afterwards += [
                work.wait,
                partial(buffer.div_, world_size()),
                *([] if empty is None else [empty]),
            ]
            return
        stream = torch.cuda.current_stream(self.device)
        if beside:
            # The copies too are made there, not within the backward pass.
            self._stream.wait_stream(stream)
            stream = self._stream
        with torch.cuda.stream(stream):
            fill()
            if self._nccl:
                dist.all_reduce(buffer, op=dist.ReduceOp.AVG)
            else:
                dist.all_reduce(buffer)
                buffer.div_(world_size())
            if empty is not None:
                self.signs += finiteness([buffer])
                empty()


class _Bucket:
    """Gradients that travel together."""

    def __init__(self):
        self.parameters = []
        self.bytes = 0
        self.missing = 0

    def add(self, parameter):
        """One more parameter."""
        self.parameters.append(parameter)
        self.bytes += parameter.numel() * parameter.element_size()

    def make_buffer(self, dtype):
        """Room for all gradients."""
        first = self.parameters[0]
        sizes = [p.numel() for p in self.parameters]
        self.buffer = torch.zeros(
            sum(sizes), dtype=dtype or first.dtype, device=first.device
        )
        self._places = _pieces(self.buffer.split(sizes))

    def fill_gaps(self):
        """Gradients where there are none."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def fill(self):
        """Gradients into the buffer."""
        torch._foreach_copy_(self._places, self._gradients())

    def empty(self):
        """Means out of the buffer."""
        torch._foreach_copy_(self._gradients(), self._places)

    def _gradients(self):
        return _pieces([p.grad for p in self.parameters])


def _pieces(tensors):
    """All numbers of some tensors, which the views share with them."""
    if tensors[0].device.type == "cpu":
        return [tensor.view(-1) for tensor in tensors]
    return [p for tensor in tensors for p in tensor.view(-1).split(PIECE)]
