"""The one-dimensional Gaussian optimal-transport map, and the geodesic toward it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otgraph.calibrate.moments import MeanVariance, Vector


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Per channel y → ``scale`` · y + ``shift``; each of shape (n,), float64."""

    scale: Vector
    shift: Vector


def gaussian_map(
    source: MeanVariance, target: MeanVariance, strength: float = 1.0, *, floor: float = 1e-6
) -> AffineMap:
    """The map that carries each channel's mean and variance to the target's.

    Between Gaussians it is the optimal-transport map (Gelbrich 1990); ``strength`` t stops at the point t of
    the geodesic (McCann's interpolation): the mean and the standard deviation move linearly. A channel whose
    standard deviation is below ``floor`` of the largest, on either side, is only shifted: its scale would be
    noise.
    """
    here, there = np.sqrt(source.variance), np.sqrt(target.variance)
    live = (here > floor * max(here.max(), 1e-300)) & (there > floor * max(there.max(), 1e-300))
    ratio = np.where(live, there / np.where(live, here, 1.0), 1.0)
    scale = (1 - strength) + strength * ratio
    mean = (1 - strength) * source.mean + strength * target.mean
    return AffineMap(scale, mean - scale * source.mean)
