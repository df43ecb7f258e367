"""Channels seen as distributions on the line: quantiles, where optimal transport is a difference of
functions."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from otgraph.transport.cost import FloatArray
from otgraph.transport.criteria.criterion import ChannelStatistics


def activation_quantiles(inputs: ChannelStatistics, points: int) -> FloatArray:
    """Quantile functions of the channels' activations at ``points`` mid-levels, shape (n, points).

    From samples where they are given: these, sorted, where there are as many points as samples. Otherwise
    Gaussians with the first reading's means and variances, the quantiles rescaled so that their variance is
    exactly that of the channel.
    """
    levels = (np.arange(points) + 0.5) / points
    if inputs.samples is not None:
        return np.quantile(np.asarray(inputs.samples, np.float64), levels, axis=1, method="hazen").T
    reading = inputs.readings[0]
    mean = np.zeros(reading.size) if reading.mean is None else np.asarray(reading.mean, np.float64)
    deviation = np.sqrt(np.maximum(np.diagonal(reading.moment) - mean * mean, 0.0))
    normal = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
    spread = float(np.sqrt(np.mean(normal * normal)))
    return mean[:, None] + deviation[:, None] * (normal / (spread if spread > 0.0 else 1.0))


def squared_distances(quantiles: npt.NDArray[np.floating]) -> FloatArray:
    """``W₂²`` between all pairs of distributions given by quantiles (n, points); (n, n)."""
    points = quantiles.shape[1]
    norms = np.sum(quantiles * quantiles, axis=1)
    squared = (norms[:, None] + norms[None, :] - 2.0 * (quantiles @ quantiles.T)) / points
    np.fill_diagonal(squared, 0.0)
    return np.maximum(squared, 0.0)
