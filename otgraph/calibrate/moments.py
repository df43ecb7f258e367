"""First and second moments as values that add up: of the channels of a slot, and per channel of a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from otgraph.transport.rounding import SINGLE, rounding_share

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of n channels over ``count`` observations.

    ``mean``: E[x], shape (n,). ``second``: E[x xᵀ], *not* centered, shape (n, n). Both float64. ``eps``: the
    rounding unit of the observations.
    """

    count: int
    mean: Vector
    second: Matrix
    eps: float = SINGLE

    @property
    def rounding(self) -> float:
        """The part of its mean square below which the variance of a channel is rounding."""
        return rounding_share(self.eps)

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
    """Accumulates ``Moments``: products in the type of the data, sums over batches in float64.

    Products are taken of what observations are beyond ``shift``, the mean of the first block: the products of
    a channel that hardly varies about a large mean would round by more than what varies.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.eps = SINGLE
        self.shift: torch.Tensor | None = None
        self.first = torch.zeros(size, dtype=torch.float64)
        self.second = torch.zeros(size, size, dtype=torch.float64)

    def add(self, observations: torch.Tensor) -> None:
        """Count ``observations`` of shape (n, m), in blocks, so that rounding stays that of a short sum."""
        self.eps = torch.finfo(observations.dtype).eps
        for block in observations.split(_BLOCK, dim=1):
            if self.shift is None:
                self.shift = _finite(block.mean(1, dtype=torch.float64)).to(block.dtype)
            beyond = block - self.shift[:, None]
            self.first += beyond.sum(1, dtype=torch.float64)
            self.second += (beyond @ beyond.T).double()
        self.count += observations.shape[1]

    def value(self) -> Moments:
        """The moments so far."""
        count = max(self.count, 1)
        mean, second = self.first / count, self.second / count
        if self.shift is not None:
            shift = self.shift.double()
            cross = torch.outer(shift, mean)
            second = second + cross + cross.T + torch.outer(shift, shift)
            mean = mean + shift
        return Moments(self.count, mean.numpy(), second.numpy(), self.eps)


def _finite(mean: torch.Tensor) -> torch.Tensor:
    """``mean`` where it is finite, else 0: an overflow is to show in the moments as it would without."""
    return torch.where(mean.isfinite(), mean, torch.zeros_like(mean))


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
