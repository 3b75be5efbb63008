"""Whether matmuls in bfloat16 are worth it."""

import torch

__all__ = ["has_bfloat16"]


def has_bfloat16(device):
    """Whether a device has bfloat16 matmuls in hardware.

    A CPU without them takes seconds for milliseconds of work in float32.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or known()
