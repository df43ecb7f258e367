"""The one-dimensional Gaussian optimal-transport map, and the geodesic toward it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.calibrate.moments import MeanVariance, Vector
from otgraph.transport.rounding import GROWTH, rounding_share


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
    standard deviation is below ``floor`` of the largest, on either side, or rounding of its own root mean
    square, is only shifted: its scale would be noise. None is scaled up beyond what carries the root mean
    square of its source to ``GROWTH`` deviations of its target.
    """
    here, there = np.sqrt(source.variance), np.sqrt(target.variance)
    size = np.sqrt(source.variance + source.mean**2)
    live = _varies(source, here, floor) & _varies(target, there, floor)
    ratio = np.where(live, there / np.where(live, here, 1.0), 1.0)
    ratio = np.minimum(ratio, np.maximum(1.0, GROWTH * there / np.maximum(size, 1e-300)))
    scale = (1 - strength) + strength * ratio
    mean = (1 - strength) * source.mean + strength * target.mean
    return AffineMap(scale, mean - scale * source.mean)


def _varies(moments: MeanVariance, deviation: Vector, floor: float) -> npt.NDArray[np.bool_]:
    energy = moments.variance + moments.mean**2
    much = deviation > floor * max(deviation.max(), 1e-300)
    return much & (moments.variance > rounding_share() * energy)
