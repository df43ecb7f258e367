"""DATA: named input arrays with an optional label array, read from ``.npz`` files, a folder, or a callable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Chunk:
    """Samples of one shape: one array per model input, first axis = samples, and their labels if known."""

    arrays: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True)
class Data:
    """Inputs of a model, as chunks that may differ in shape (several files of a folder). No torch here."""

    chunks: tuple[Chunk, ...]
    source: str = "memory"

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    def batches(self, size: int) -> Iterator[Chunk]:
        """Consecutive batches of at most ``size`` samples; a batch never spans two chunks."""
        for chunk in self.chunks:
            for start in range(0, len(chunk), size):
                cut = slice(start, start + size)
                labels = None if chunk.labels is None else chunk.labels[cut]
                yield Chunk({name: array[cut] for name, array in chunk.arrays.items()}, labels)
