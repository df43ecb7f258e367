"""First and second moments as values that add up: of the channels of a slot, and per channel of a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of n channels over ``count`` observations.

    ``mean``: E[x], shape (n,). ``second``: E[x xᵀ], *not* centered, shape (n, n). Both float64.
    """

    count: int
    mean: Vector
    second: Matrix

    def covariance(self) -> Matrix:
        """E[x xᵀ] − E[x] E[x]ᵀ, shape (n, n)."""
        return self.second - np.outer(self.mean, self.mean)


@dataclass(frozen=True, eq=False)
class MeanVariance:
    """Per-channel mean and (population) variance, shape (n,), float64, over ``count`` observations."""

    count: int
    mean: Vector
    variance: Vector

    def merge(self, other: MeanVariance) -> MeanVariance:
        """The moments of both sets together (Chan, Golub and LeVeque's pairwise update)."""
        count = self.count + other.count
        if not count:
            return self
        share = other.count / count
        step = other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * step**2
        return MeanVariance(count, self.mean + share * step, variance)


class MomentSum:
    """Accumulates ``Moments``: products in the type of the data, sums over batches in float64."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.first = torch.zeros(size, dtype=torch.float64)
        self.second = torch.zeros(size, size, dtype=torch.float64)

    def add(self, observations: torch.Tensor) -> None:
        """Count ``observations`` of shape (n, m), in blocks, so that rounding stays that of a short sum."""
        for block in observations.split(_BLOCK, dim=1):
            self.first += block.sum(1, dtype=torch.float64)
            self.second += (block @ block.T).double()
        self.count += observations.shape[1]

    def value(self) -> Moments:
        """The moments so far."""
        count = max(self.count, 1)
        return Moments(self.count, (self.first / count).numpy(), (self.second / count).numpy())


def mean_variance(value: torch.Tensor, axis: int) -> MeanVariance:
    """Mean and variance of one tensor per index of ``axis``, in float64."""
    rows = value.movedim(axis, 0).reshape(value.shape[axis], -1)
    blocks = [_mean_variance_of_rows(block) for block in rows.split(_BLOCK * 16, dim=1)]
    total = blocks[0]
    for block in blocks[1:]:
        total = total.merge(block)
    return total


def _mean_variance_of_rows(rows: torch.Tensor) -> MeanVariance:
    wide = rows.double()
    variance, mean = torch.var_mean(wide, dim=1, correction=0)
    return MeanVariance(rows.shape[1], mean.numpy(), variance.numpy())


_BLOCK = 8192
"""Observations whose products are summed in the type of the data before they are added in float64."""
