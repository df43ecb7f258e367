"""``Slot``: where in a value a dim lies, so that its channels can be observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, eq=False)
class Slot:
    """One dim seen in one value: column c of replica r lies at ``positions[r, c]`` of axis ``axis``.

    ``node`` names the value. ``positions`` has shape (r, n): n is the size of the dim; each replica counts as
    further samples. A plain channel axis has positions ``[[0 … n-1]]``, a segment of a concatenation
    ``[[start … stop-1]]``, a factor of a product one row per index of the other factors.
    """

    node: str
    axis: int
    positions: npt.NDArray[np.int64]

    @property
    def size(self) -> int:
        """The number n of channels."""
        return int(self.positions.shape[1])

    @property
    def key(self) -> tuple[str, int, bytes, int]:
        """Equal for slots that observe the same numbers in the same order."""
        return (self.node, self.axis, np.ascontiguousarray(self.positions, np.int64).tobytes(), self.size)

    def view(self, value: torch.Tensor) -> torch.Tensor:
        """The observations of ``value``: shape (n, m), m = samples x positions x replicas; may share
        memory."""
        rolled = value.movedim(self.axis, 0)
        return _select(rolled.reshape(rolled.shape[0], -1), self.positions)


def whole(node: str, axis: int, size: int) -> Slot:
    """The slot of a dim that is all of an axis."""
    return Slot(node, axis, np.arange(size, dtype=np.int64)[None])


def _select(rows: torch.Tensor, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """Rows (A, m) → (n, r*m). A regular grid is a strided view; anything else gathers."""
    replicas, n = positions.shape
    start = int(positions[0, 0]) if positions.size else 0
    step = int(positions[0, 1] - positions[0, 0]) if n > 1 else 1
    if replicas == 1 and step == 1 and np.array_equal(positions[0], np.arange(start, start + n)):
        return rows[start : start + n]
    index = torch.from_numpy(np.ascontiguousarray(positions.T).reshape(-1))
    return rows.index_select(0, index).reshape(n, -1)
