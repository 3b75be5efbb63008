"""The kernels of a training step, compiled by a process of their own.

What Triton compiles keeps Python busy for seconds. A training that starts has
more of that to do, reading its audio and having torch compile the rest, and
finds the kernels in Triton's cache when it needs them.

That process runs :func:`compile_kernels`, whose arguments it gets as a JSON
object.
"""

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from amsincnet_sb.kernels import kernels_for
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.training.children import end_with

__all__ = ["compile_ahead", "compile_kernels", "end_ahead"]

CORES = 4  # with fewer the process would be in the way
ROOM = 16 * 10**9  # bytes of a GPU that must be free
# Modules are not looked for in the working directory, which may have files of
# their names: corpora come from strangers.
PROGRAM = f"""\
import sys
sys.path[:] = filter(None, sys.path)
import json
from {__name__} import compile_kernels
compile_kernels(**json.loads(sys.argv[1]))
"""


def compile_ahead(net, batch_size, dtype, device):
    """Start a process that compiles the kernels of a network's training step.

    Returns it, or None where it would not help: no GPU, or a busy one, a
    network without kernels, few processor cores. It ends by itself, or with
    this process; what fails in it fails again, and says why, where it is
    needed.

    Arguments
    ---------
    net : torch.nn.Module
        The network.
    batch_size : int
        Windows of a step.
    dtype : torch.dtype
        Of autocast, or float32.
    device : str
        Of the training.
    """
    place = torch.device(device)
    if (
        place.type != "cuda"
        or not isinstance(net, WindowedEmbedding)
        or not net.fast
        or kernels_for(torch.empty(0, device=place)) is None
        or _cores() < CORES
        or torch.cuda.mem_get_info(place)[0] < ROOM
    ):
        return None
    options = {
        "kind": [type(net).__module__, type(net).__qualname__],
        "arguments": net.arguments,
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "matmuls": torch.get_float32_matmul_precision(),
    }
    with contextlib.suppress(OSError):
        return _start(options)
    return None


def _start(options):
    """The process, with the arguments of compile_kernels."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.getenv("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with(os.getpid()),
    )
    # Not every system ends it with us, nor every container's first process
    # takes note of its end.
    atexit.register(end_ahead, process)
    return process


def end_ahead(process):
    """End a process that :func:`compile_ahead` has started."""
    process.terminate()
    process.wait()


def _cores():
    """Processor cores of this process; some systems tell those of all."""
    ask = getattr(os, "sched_getaffinity", None)
    return len(ask(0)) if ask else os.cpu_count()


def compile_kernels(kind, arguments, batch_size, dtype, device, matmuls):
    """Do once what a training step does with a network of a kind."""
    torch.set_float32_matmul_precision(matmuls)
    module, name = kind
    net = getattr(importlib.import_module(module), name)(**arguments)
    net.to(device).train()
    windows = torch.randn(batch_size, net.window, device=device)
    dtype = getattr(torch, dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    with torch.autocast(windows.device.type, dtype=dtype, enabled=half):
        loss = net(windows).float().square().mean()
    loss.backward()
    return net
