"""What a device is best at."""

import torch

__all__ = ["fastest_precision"]


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
    if not device.startswith("cuda") or torch.version.hip is not None:
        return "fp32"
    capable = torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if capable else "fp32"
