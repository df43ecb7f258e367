"""Semi-relaxed optimal transport under the re-routing cost: the method of this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from otgraph.transport.criteria.criterion import ChannelStatistics
from otgraph.transport.curve import RateDistortion
from otgraph.transport.problem import rerouting_problem
from otgraph.transport.selection import select


@dataclass(frozen=True)
class Rerouting:
    """Keep the channels through which all others can be re-routed, one for one, at the least cost."""

    reads_writers: ClassVar[bool] = False

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return select(rerouting_problem(inputs.readings))
