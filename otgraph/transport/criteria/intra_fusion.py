"""Intra-Fusion: balanced transport of all channels onto the k most important ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otgraph.transport.cost import FloatArray, IntArray
from otgraph.transport.coupling import Coupling
from otgraph.transport.criteria.criterion import ChannelStatistics, ranked
from otgraph.transport.criteria.magnitude import Magnitude
from otgraph.transport.curve import RateDistortion
from otgraph.transport.pot import exact_plan


@dataclass(frozen=True)
class IntraFusion:
    """Keep the most important channels by weight norm and fuse the others into them (arXiv 2402.07839).

    The set is magnitude's; what differs is where the others go, ``plan`` and ``couple``: each target takes
    the same mass n/k, whatever the redundancy. Ground cost: L1 between normalized features, as published.
    """

    reads_writers: ClassVar[bool] = True

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return ranked(inputs, Magnitude().importance(inputs))

    def plan(self, inputs: ChannelStatistics, kept: IntArray) -> FloatArray:
        """The balanced plan, (n, k): rows sum to 1 (all of a channel goes somewhere), columns to n/k."""
        features = _features(inputs)
        ground = np.stack([np.abs(features - features[i]).sum(axis=1) for i in kept], axis=1)
        n, k = inputs.size, len(kept)
        return exact_plan(np.full(n, 1.0 / n), np.full(k, 1.0 / k), ground) * n

    def couple(self, inputs: ChannelStatistics, kept: IntArray) -> Coupling:
        """The plan made hard: each channel goes to its largest part, kept ones stay; all scales are 1."""
        kept = np.sort(kept).astype(np.int64)
        target = kept[np.argmax(self.plan(inputs, kept), axis=1)]
        target[kept] = kept
        scales = {reading.name: np.ones(inputs.size) for reading in inputs.readings}
        return Coupling(kept, target, scales=scales)


def _features(inputs: ChannelStatistics) -> FloatArray:
    """A row of unit length per channel: its writers' weights, or else its correlations."""
    rows = np.asarray(inputs.readings[0].moment if inputs.writers is None else inputs.writers, np.float64)
    if inputs.writers is None:
        scale = np.sqrt(np.maximum(np.diagonal(rows), np.finfo(np.float64).tiny))
        rows = rows / np.multiply.outer(scale, scale)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.0)
