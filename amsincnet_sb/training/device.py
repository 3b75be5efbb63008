"""The device of a process, and the precisions that suit it."""

import contextlib
import ctypes
import os

import torch
from speechbrain.utils.distributed import get_local_rank, infer_device

from amsincnet_sb.kernels.bfloat16 import has_bfloat16
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "best_precisions",
    "has_bfloat16",
    "keep_freed_memory",
    "own_device",
    "visible_gpus",
]


def own_device(asked=None):
    """The device of this process; ``asked`` is the option ``--device``.

    SpeechBrain takes "cuda" for the first GPU in every process; here it is
    under torchrun the GPU of the local rank. An InputError if there is none.
    """
    device = asked or infer_device()
    if device == "cuda" and get_local_rank() is not None:
        device = f"cuda:{get_local_rank()}"
    try:
        place = torch.device(device)
        if place.type != "cuda":
            torch.empty(1, device=place).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"--device={device}: there is no such device here; give "
            "--device=cpu."
        ) from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device={device}: there is no such GPU here; give --device=cpu, "
            "or start as many processes as there are GPUs."
        )
    return device


def best_precisions(device):
    """``precision`` and ``eval_precision`` of a device by default.

    On GPUs with tensor cores bfloat16 trains as well as float32 in half the
    time; so it does on CPUs with bfloat16 matmuls, in three quarters of it.
    Evaluation is in float32 there, and on GPUs in float16, whose mantissa is as
    long as that of TF32, which SpeechBrain allows (bfloat16's is three bits
    shorter, which shows in frame errors); values out of its range are computed
    in float32.
    """
    if _has_tensor_cores(device):
        return {"precision": "bf16", "eval_precision": "fp16"}
    narrow = device.startswith("cpu") and has_bfloat16(device)
    return {
        "precision": "bf16" if narrow else "fp32",
        "eval_precision": "fp32",
    }


def keep_freed_memory():
    """Let glibc keep freed memory for the next training step on a CPU.

    It would give blocks from 128 KiB on back to the system at once, and the rest
    when much of it is free, to ask for it again page by page in every step.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, its largest value
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def _has_tensor_cores(device):
    """Tensor cores that the kernels of this package can use."""
    if not device.startswith("cuda") or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def visible_gpus():
    """The GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [name.strip() for name in named.split(",")][:count]
    return [str(number) for number in range(count)]
