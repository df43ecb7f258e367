"""Weight norms, without data: the baseline of every pruning library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from otgraph.errors import DataError
from otgraph.transport.cost import FloatArray
from otgraph.transport.criteria.criterion import ChannelStatistics, ranked
from otgraph.transport.curve import RateDistortion


@dataclass(frozen=True)
class Magnitude:
    """Keep the channels with the largest weights.

    ``side``: the L1 norm of what writes a channel (as Li et al., 2017), the L2 norm of what reads it, or the
    product of both. ``writer`` and ``both`` need ``writers``; without them ``auto`` takes the readers.
    """

    side: Literal["auto", "writer", "reader", "both"] = "auto"

    reads_writers: ClassVar[bool] = True

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return ranked(inputs, self.importance(inputs))

    def importance(self, inputs: ChannelStatistics) -> FloatArray:
        """The norm per channel, shape (n,). Raises ``DataError`` where writers are needed and missing."""
        side = self.side
        if side == "auto":
            side = "reader" if inputs.writers is None else "writer"
        reader = np.sqrt(np.maximum(inputs.reader_energy(), 0.0))
        if side == "reader":
            return reader
        if inputs.writers is None:
            raise DataError(
                f"criterion magnitude: side={side!r} needs the writers' weights; use side='reader'"
            )
        writer = np.abs(inputs.writers).sum(axis=1, dtype=np.float64)
        return writer if side == "writer" else writer * reader
