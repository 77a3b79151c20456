"""How this process gets its memory. Only glibc has the knobs; elsewhere nothing is done."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let malloc keep what is freed instead of returning it to the kernel at once.

    A layer's activations are tens of megabytes that come and go with every operation; fetched from the kernel each
    time, they cost a page fault per 4 KiB, about a tenth of the frozen layers' time on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
