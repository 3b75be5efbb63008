"""Several processes: gradients, agreement, errors."""

import contextlib
import math

import torch
import torch.distributed as dist
from speechbrain.utils.distributed import (
    MainProcessContext,
    if_main_process,
    is_distributed_initialized,
)
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
)
from torch.nn.parallel import DistributedDataParallel

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.locks import sole_process

__all__ = [
    "RankAgreement",
    "add_over_ranks",
    "any_rank",
    "common_error",
    "on_main",
    "rank",
    "same_on_all_ranks",
    "sole_run",
    "world_size",
    "wrap_distributed",
]


def world_size():
    """Number of processes that train together; 1 without torchrun."""
    return dist.get_world_size() if is_distributed_initialized() else 1


def rank():
    """Number of this process among them, from 0."""
    return dist.get_rank() if is_distributed_initialized() else 0


def on_main(function, *args, **kwargs):
    """Run a function on the main process alone; all get what it returns.

    As SpeechBrain's ``run_on_main``, under which the others would wait for
    ever when the main process gives up: an InputError is raised by all.
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


@contextlib.contextmanager
def sole_run(folder):
    """Let one run at a time work in a folder; its main process holds the lock.

    See :func:`amsincnet_sb.utils.files.sole_process`.
    """
    with contextlib.ExitStack() as held:

        def _hold():
            held.enter_context(sole_process(folder))

        on_main(_hold)
        yield


def add_over_ranks(tensor):
    """Sum of a tensor over all processes, in place; returns the tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_rank(flags, device="cpu"):
    """For each flag whether it is set in any process; waits for the device.

    ``device`` is one that the backend serves.
    """
    if world_size() == 1:
        return list(flags)
    joined = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(joined, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in joined.tolist()]


def same_on_all_ranks(value, what):
    """Raise an InputError where processes that must agree do not.

    ``what`` begins the sentence, such as "The checkpoint".
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
    """An InputError that all processes raise and the main one prints."""
    error = InputError(sentence)
    error.told_elsewhere = not if_main_process()
    return error


class RankAgreement:
    """What the processes agree on in a step, beside the gradients.

    Gradients are averaged by DistributedDataParallel. One small all-reduce
    beside the backward pass averages the running statistics of BatchNorm
    (``averages``, float32), so that all processes keep the same ones, and says
    whether the loss of every process is finite.
    """

    def __init__(self, averages, device):
        self._averages = [average.view(-1) for average in averages]
        sizes = [*(a.numel() for a in self._averages), 1]
        self._flat = torch.zeros(sum(sizes), device=device)
        self._places = self._flat.split(sizes)
        self._sign = self._work = None

    @torch.no_grad()
    def start(self, loss):
        """Gets called after the forward pass, with the scalar loss."""
        self._sign = loss.detach().float()
        if world_size() == 1:
            return
        if self._averages:
            torch._foreach_copy_(self._places[:-1], self._averages)
        self._places[-1].copy_(~self._sign.isfinite())
        self._work = dist.all_reduce(self._flat, async_op=True)

    @torch.no_grad()
    def finish(self):
        """A scalar that is finite if the loss is, in every process.

        Gets called after the backward pass; waits on the device alone.
        """
        if world_size() == 1:
            return self._sign
        self._work.wait()
        self._flat.div_(world_size())
        # Only now: the backward pass needs the values of the forward pass.
        if self._averages:
            torch._foreach_copy_(self._averages, self._places[:-1])
        return torch.where(self._places[-1][0] == 0, 0.0, math.inf)


def wrap_distributed(module, device, find_unused=False, dtype=None):
    """A module in DistributedDataParallel, such that it can be captured.

    SpeechBrain's Brain would also turn every BatchNorm into SyncBatchNorm,
    which a CPU refuses, and leave no stream of its own to a CUDA graph.
    ``find_unused``: some parameters get no gradient in some steps. A ``dtype``
    of ``torch.bfloat16`` halves the traffic.
    """
    cuda = torch.device(device).type == "cuda"
    stream = contextlib.nullcontext()
    if cuda:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        stream = torch.cuda.stream(side)
    with stream:
        wrapped = DistributedDataParallel(
            module,
            device_ids=[torch.device(device).index or 0] if cuda else None,
            broadcast_buffers=False,
            find_unused_parameters=find_unused,
        )
        if dtype is torch.bfloat16:
            wrapped.register_comm_hook(None, bf16_compress_hook)
    if cuda:
        torch.cuda.current_stream(device).wait_stream(side)
    return wrapped
