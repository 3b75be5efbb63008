"""Which device a process has, and what it is best at."""

import os

import torch
from speechbrain.utils.distributed import get_local_rank, infer_device

from amsincnet_sb.utils.errors import InputError

__all__ = [
    "evaluation_precision",
    "fastest_precision",
    "has_bfloat16",
    "own_device",
    "visible_gpus",
]


def own_device(asked=None):
    """The device of this process.

    Arguments
    ---------
    asked : str, optional
        As with ``--device``; "cuda" is under torchrun the GPU of this
        process, where SpeechBrain would take the first one for all.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If there is no such GPU here.

    Example
    -------
    >>> own_device("cpu")
    'cpu'
    """
    device = asked or infer_device()
    if not device.startswith("cuda"):
        return device
    if device == "cuda" and get_local_rank() is not None:
        device = f"cuda:{get_local_rank()}"
    number = torch.device(device).index or 0
    if number >= torch.cuda.device_count():
        raise InputError(
            f"--device={device}: there is no such GPU here; give --device=cpu, "
            "or start as many processes as there are GPUs."
        )
    return device


def fastest_precision(device):
    """The precision to train in unless the user says otherwise.

    Arguments
    ---------
    device : str
        "cpu", "cuda", "cuda:1", …

    Returns
    -------
    str
        "bf16" on GPUs whose tensor cores know it, which trains as well as
        float32 does and takes half the time; "fp32" elsewhere.

    Example
    -------
    >>> fastest_precision("cpu")
    'fp32'
    """
    return "bf16" if _has_fast_products(device) else "fp32"


def evaluation_precision(device):
    """The precision to evaluate in unless the user says otherwise.

    Arguments
    ---------
    device : str
        As in :func:`fastest_precision`.

    Returns
    -------
    str
        "fp16" where that takes a fraction of the time: its products have as
        many digits as the TF32 ones that SpeechBrain allows (bfloat16 has
        three bits less, which shows in frame errors), and what leaves its
        range is computed in float32. "fp32" elsewhere.

    Example
    -------
    >>> evaluation_precision("cpu")
    'fp32'
    """
    return "fp16" if _has_fast_products(device) else "fp32"


def has_bfloat16(device):
    """Whether a device multiplies bfloat16 numbers itself.

    Arguments
    ---------
    device : str
        As in :func:`fastest_precision`.

    Returns
    -------
    bool
        A processor that does not takes seconds for what is done in
        milliseconds in float32.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or known()


def _has_fast_products(device):
    """Whether a device has tensor cores that the kernels here can use."""
    if not device.startswith("cuda") or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def visible_gpus():
    """Names of the GPUs that this process may use.

    Returns
    -------
    list of str
        As ``CUDA_VISIBLE_DEVICES`` names them for other processes; none where
        there is no GPU.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [name.strip() for name in named.split(",")][:count]
    return [str(number) for number in range(count)]
