"""Lots: what any criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otgraph.transport.criteria.criterion import ChannelStatistics, ranked
from otgraph.transport.curve import RateDistortion


@dataclass(frozen=True)
class Random:
    """Keep channels drawn by lot, the same ones for the same ``inputs.seed``."""

    reads_writers: ClassVar[bool] = False

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return ranked(inputs, np.random.default_rng(inputs.seed).random(inputs.size))
