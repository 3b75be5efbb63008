"""Memory that was freed stays with the process.

glibc gives memory at the end of its heap back to the system, to ask for it
again page by page: a tenth of a training step.
"""

import ctypes
import os

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3), and what they are set to. From the largest size on
# that can be set, blocks come from the system in any case.
_TRIM_THRESHOLD, _KEPT = -1, 512 * 2**20
_MMAP_THRESHOLD, _LARGEST = -3, 32 * 2**20 - 1


def keep_freed_memory():
    """Let glibc keep up to 512 MiB that were freed; says whether it does.

    Nothing is changed where malloc is another one, nor where the environment
    tunes it (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES``).
    """
    names = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"
    if any(name in os.environ for name in names):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT)
    )
