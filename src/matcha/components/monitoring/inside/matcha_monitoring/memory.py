"""Giving memory back: the service idles for hours between bodies."""

from __future__ import annotations

import gc
import sys


def release() -> None:
    """Collect, and on glibc return the free heap to the system."""
    gc.collect()
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
