"""CPOT: channels near the layer's Wasserstein barycenter are held to be redundant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from otgraph.transport.cost import FloatArray
from otgraph.transport.criteria.criterion import ChannelStatistics, ranked
from otgraph.transport.criteria.distributions import activation_quantiles
from otgraph.transport.curve import RateDistortion
from otgraph.transport.pot import entropic_barycenter, line_distance


@dataclass(frozen=True)
class Barycenter:
    """Remove first what lies nearest to the barycenter of the layer (CPOT, arXiv 2005.10451).

    Each channel becomes a histogram over ``bins`` values: of its writers' weights, or of its activations
    where no writer is known. The barycenter is entropic (POT, strength ``entropy`` relative to the squared
    range of the support), distances to it are exact ``W₂²``.
    """

    bins: int = 48
    entropy: float = 2e-3

    reads_writers: ClassVar[bool] = True

    def curve(self, inputs: ChannelStatistics) -> RateDistortion:
        return ranked(inputs, self.distances(inputs))

    def distances(self, inputs: ChannelStatistics) -> FloatArray:
        """``W₂²`` of each channel to the barycenter, shape (n,), on a support scaled to [0, 1]."""
        values = activation_quantiles(inputs, 256) if inputs.writers is None else inputs.writers
        histograms = _histograms(np.asarray(values, np.float64), self.bins)
        support = np.linspace(0.0, 1.0, self.bins)
        ground = np.subtract.outer(support, support) ** 2
        center = entropic_barycenter(histograms, ground, self.entropy)
        return np.array([line_distance(support, row, center) for row in histograms])


def _histograms(values: FloatArray, bins: int) -> FloatArray:
    """Histograms of the rows over the common range, (n, bins), each of mass 1 and nowhere quite empty."""
    low, high = float(values.min()), float(values.max())
    scale = (bins - 1) / (high - low) if high > low else 0.0
    cells = np.rint((values - low) * scale).astype(np.int64)
    flat = cells + bins * np.arange(len(values))[:, None]
    counts = np.bincount(flat.ravel(), minlength=bins * len(values)).reshape(len(values), bins)
    filled = counts / values.shape[1] + 1e-9
    return filled / filled.sum(axis=1, keepdims=True)
