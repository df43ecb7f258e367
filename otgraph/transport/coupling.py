"""``Coupling``: where the mass of each channel of a dim goes when the dim is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Coupling:
    """A semi-relaxed transport plan of a dim's n channels onto the k kept ones.

    ``kept``: the kept channel indices, ascending, shape (k,). ``target``: shape (n,), for each channel the
    kept channel it is re-routed through (itself when kept), or -1 when its mass is dropped. ``scales``: for
    each reader (the name of the weight that reads the dim) the factor per channel, shape (n,): the reader's
    column of ``target[j]`` gains ``scales[j]`` times its column of j. ``cost``: predicted damage in units of
    the readers' squared outputs; ``bound``: a certified lower bound on the cost of any k channels.
    """

    kept: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    cost: float = 0.0
    bound: float = 0.0
    scales: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict[str, npt.NDArray[np.float64]])

    @property
    def size(self) -> int:
        """The number of channels before the cut."""
        return len(self.target)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Boolean mask of the kept channels, shape (n,)."""
        mask = np.zeros(self.size, bool)
        mask[self.kept] = True
        return mask
