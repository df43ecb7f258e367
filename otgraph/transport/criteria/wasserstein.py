"""Wasserstein distances between the channels' activation distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otgraph.transport.criteria.criterion import ChannelStatistics
from otgraph.transport.criteria.distributions import activation_quantiles, squared_distances
from otgraph.transport.curve import RateDistortion
from otgraph.transport.problem import SelectionProblem, rerouting_problem
from otgraph.transport.selection import distortion_along, select


@dataclass(frozen=True)
class Wasserstein:
    """Keep channels whose activation distributions stand for those of the others.

    Channel j may be served by i at ``Σ_r H_r[j,j] · W₂²(x_j, x_i)``, or dropped at the distance to the
    constant 0 (its energy). One-dimensional W₂ by ``points`` quantiles, after Duan and Li (ACCV 2020), with
    medoids instead of barycenters. It ignores which samples belong together: a lower bound of the paired
    error at equal scale.
    """

    points: int = 64

    reads_writers: ClassVar[bool] = False

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        quantiles = activation_quantiles(inputs, self.points)
        gain = np.maximum(inputs.reader_energy(), 0.0)
        problem = SelectionProblem(
            gain[:, None] * squared_distances(quantiles), gain * np.mean(quantiles * quantiles, axis=1)
        )
        return distortion_along(rerouting_problem(inputs.readings), select(problem).order)
