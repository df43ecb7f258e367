"""How much a callable may yield: an iterator without end would otherwise fill the memory without a word."""

from __future__ import annotations

import os

from otgraph.data import Chunk
from otgraph.errors import DataError

MOST_SAMPLES = 1_000_000
"""More than any calibration or test set that is held in memory; ImageNet has 50 000 to test on."""

_UNKNOWN_MEMORY = 16 << 30


class Bounds:
    """Counts what one source has yielded; at most ``samples`` samples and ``size`` bytes (None: half of the
    machine's memory)."""

    def __init__(self, source: str, samples: int | None = None, size: int | None = None) -> None:
        self.source = source
        self._samples = MOST_SAMPLES if samples is None else samples
        self._size = machine_memory() // 2 if size is None else size
        self._counted = 0
        self._bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Count ``chunk``; ``DataError`` when that is too much."""
        self._counted += len(chunk)
        self._bytes += sum(array.nbytes for array in chunk.arrays.values())
        if self._counted > self._samples:
            bound = f"more than {self._samples} samples"
        elif self._bytes > self._size:
            bound = f"more than {self._size / 1e9:.3g} GB, half of the memory, in {self._counted} samples"
        else:
            return
        raise DataError(
            f"{self.source}: yields {bound}, perhaps without end; stop after as many as are needed"
        )


def machine_memory() -> int:
    """Bytes of physical memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no POSIX
        return _UNKNOWN_MEMORY
