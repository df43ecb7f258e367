"""The contract of a selection criterion, and what a criterion may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from otgraph.errors import DataError
from otgraph.transport.cost import FloatArray, Reading
from otgraph.transport.curve import RateDistortion
from otgraph.transport.problem import rerouting_problem
from otgraph.transport.selection import distortion_along


@dataclass(frozen=True)
class ChannelStatistics:
    """What is known about a dim of n channels.

    ``readings``: its readers, at least one. ``writers``: the rows of the weights that make the channels,
    flattened and put side by side, shape (n, fan_in), or None. ``samples``: activation samples per channel,
    (n, m), or None (criteria that compare distributions then take Gaussians). ``seed``: for criteria that
    draw lots.
    """

    readings: Sequence[Reading]
    writers: npt.NDArray[np.floating] | None = None
    samples: npt.NDArray[np.floating] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.readings:
            raise DataError(
                "channel statistics: no reading is given; a dim that nothing reads needs no criterion"
            )
        for what, array in (("writers", self.writers), ("samples", self.samples)):
            if array is not None and (array.ndim != 2 or len(array) != self.size):
                raise DataError(
                    f"channel statistics: {what} has shape {array.shape}, expected one row for each of "
                    f"{self.size} channels"
                )

    @property
    def size(self) -> int:
        """The number of channels n."""
        return self.readings[0].size

    def reader_energy(self) -> FloatArray:
        """``Σ_r H_r[j,j]``: squared norm of all that reads each channel, shape (n,)."""
        return np.sum([np.diagonal(reading.gain) for reading in self.readings], axis=0)


class Criterion(Protocol):
    """A way to choose channels. An instance is a frozen dataclass; its fields are its options.

    ``reads_writers``: it looks at the weights that make the channels, which nobody prepares otherwise.
    """

    reads_writers: ClassVar[bool]

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        """Nested sets for every k, and what each is estimated to cost (units of the readers' squared
        outputs).

        Unless a criterion says otherwise, the distortion is the re-routing cost of its sets, so that the
        curves of different criteria and of different dims can be compared.
        """
        ...


def ranked(inputs: ChannelStatistics, importance: npt.NDArray[np.floating]) -> RateDistortion:
    """The curve that keeps the most important channels; ties keep the first. ``importance``: (n,)."""
    order = np.argsort(-importance, kind="stable")
    return distortion_along(rerouting_problem(inputs.readings), order)
