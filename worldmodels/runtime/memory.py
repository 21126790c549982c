"""Keep freed memory instead of giving it back to the system after every large tensor.

glibc maps every block above a threshold afresh and returns it on free; each update then pays
thousands of page faults.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def resident_gib(peak: bool = False) -> float:
    """Resident memory of this process in GiB, now or at its peak so far."""
    if peak and sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    import psutil

    return psutil.Process().memory_info().rss / 2**30
