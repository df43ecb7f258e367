"""What each channel brings to its readers' outputs by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from otgraph.transport.cost import rerouting_cost
from otgraph.transport.criteria.criterion import ChannelStatistics, ranked
from otgraph.transport.curve import RateDistortion


@dataclass(frozen=True)
class Energy:
    """Keep the channels of the largest ``Σ_r S_r[j,j] H_r[j,j]``: activation energy times squared reader
    norm.

    The diagonal of the output's second-order expansion, hence what Taylor criteria come to without labels.
    """

    reads_writers: ClassVar[bool] = False

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return ranked(inputs, rerouting_cost(inputs.readings)[1])
