"""Giving memory back between steps. Allocators keep what was freed for the next time, which adds up where steps and threads want different sizes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import pyarrow as pa


def release_unused() -> None:
    """Return to the system what Arrow's pool and glibc's heap hold and nobody uses; takes milliseconds."""
    pa.default_memory_pool().release_unused()
    _trim_heap()(0)


@cache
def _trim_heap() -> Callable[[int], object]:
    """Glibc's malloc_trim, or nothing where the C library has none."""
    if sys.platform.startswith("linux"):
        trim: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", int)
        return trim
    return int
