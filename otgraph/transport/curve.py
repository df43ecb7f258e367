"""``RateDistortion``: nested choices of channels for every k, and what each is estimated to cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otgraph.errors import DataError
from otgraph.transport.cost import FloatArray, IntArray


@dataclass(frozen=True)
class RateDistortion:
    """The whole curve D(k) of one dim.

    ``order``: the channels, most worth keeping first, shape (n,), so the sets of different k are nested.
    ``distortion``: the estimated damage when k are kept, at index k, shape (n + 1,), never increasing, in
    units of the readers' squared outputs. Raises ``DataError`` where ``order`` is no permutation.
    """

    order: IntArray
    distortion: FloatArray

    def __post_init__(self) -> None:
        n = len(self.order)
        if self.distortion.shape != (n + 1,):
            raise DataError(f"curve: distortion has shape {self.distortion.shape}, expected {(n + 1,)}")
        if not np.array_equal(np.sort(self.order), np.arange(n)):
            raise DataError(f"curve: order is not a permutation of the {n} channels")

    @property
    def size(self) -> int:
        """The number of channels n."""
        return len(self.order)

    def kept(self, k: int) -> IntArray:
        """The k channels to keep, ascending. Raises ``DataError`` unless 0 ≤ k ≤ n."""
        if not 0 <= k <= self.size:
            raise DataError(f"curve: cannot keep {k} of {self.size} channels")
        return np.sort(self.order[:k])
