"""Whether matmuls in bfloat16 are worth it."""

import platform

import torch

__all__ = ["has_bfloat16"]


def has_bfloat16(device):
    """Whether a device has bfloat16 matmuls in hardware.

    A CPU without them takes seconds for milliseconds of work in float32.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN says yes to all AVX-512, and computes in float32 on the older.
        known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    else:
        known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and known()
