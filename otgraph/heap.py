"""What the C library does with memory that was freed: keep it while much is computed, give it back after."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt
_KEPT, _STEP = 1 << 30, 64 << 20
_USUAL = ((_MMAP_MAX, 65536), (_TOP_PAD, 128 << 10), (_TRIM_THRESHOLD, 64 << 20))
_depth = 0


def give_back() -> None:
    """Return the free pages of the heap, where the C library can (glibc); elsewhere nothing happens.

    After many trials a gigabyte of them lies between the little that is still in use. Takes milliseconds;
    results do not change.
    """
    trim = _found("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def kept_pages() -> Iterator[None]:
    """Within it, pages that were freed are used again instead of being returned to the system one array at a
    time; at the end they are given back.

    An array of some megabytes otherwise comes from the system anew at every operator, page by page, which can
    take longer than to compute it. Only glibc can; elsewhere nothing happens.
    """
    global _depth
    choose = _found("mallopt")
    if choose is None or _depth:
        yield
        return
    _depth += 1
    for option, value in ((_MMAP_MAX, 0), (_TOP_PAD, _STEP), (_TRIM_THRESHOLD, _KEPT)):
        choose(option, value)
    try:
        yield
    finally:
        _depth -= 1
        for option, value in _USUAL:
            choose(option, value)
        give_back()


def _found(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
