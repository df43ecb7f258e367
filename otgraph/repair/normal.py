"""Normal equations of a weight *correction*, and its ridge solutions.

For rows x (width K), old weights W and residuals r = y − xW − b, the correction (Δ, δ) minimises
‖r − xΔ − δ‖² + λ ‖D^½ Δ‖², where D is the diagonal of the Gram: a ridge toward the *old* weights that does not
depend on the scale of any input channel. Everything is float64 and batched over groups g.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch


@dataclass(frozen=True, eq=False)
class Normal:
    """Sums over ``count`` rows. Shapes: ``x`` (g, K), ``r`` (g, O), ``xx`` (g, K, K), ``xr`` (g, K, O), ``rr`` (g, O)."""

    count: int
    x: torch.Tensor
    r: torch.Tensor
    xx: torch.Tensor
    xr: torch.Tensor
    rr: torch.Tensor

    @staticmethod
    def zero(groups: int, width: int, out: int) -> Normal:
        """The equations of no rows."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        return Normal(
            0,
            zeros(groups, width),
            zeros(groups, out),
            zeros(groups, width, width),
            zeros(groups, width, out),
            zeros(groups, out),
        )

    def add(self, rows: torch.Tensor, residuals: torch.Tensor) -> Normal:
        """Add rows (g, p, K) and residuals (g, p, O) *in place*; returns self with the new count."""
        self.x.add_(rows.sum(1))
        self.r.add_(residuals.sum(1))
        self.xx.baddbmm_(rows.transpose(1, 2), rows)
        self.xr.baddbmm_(rows.transpose(1, 2), residuals)
        self.rr.add_(residuals.square().sum(1))
        return Normal(self.count + rows.shape[1], self.x, self.r, self.xx, self.xr, self.rr)

    def __add__(self, other: Normal) -> Normal:
        return Normal(
            self.count + other.count,
            self.x + other.x,
            self.r + other.r,
            self.xx + other.xx,
            self.xr + other.xr,
            self.rr + other.rr,
        )


@dataclass(frozen=True, eq=False)
class Correction:
    """What to add: ``weight`` (g, K, O), ``bias`` (g, O) (zero without an intercept)."""

    weight: torch.Tensor
    bias: torch.Tensor


def total(parts: list[Normal]) -> Normal:
    """The equations of all rows together."""
    return reduce(lambda a, b: a + b, parts)


def solve(equations: Normal, ridges: tuple[float, ...], *, intercept: bool) -> list[Correction]:
    """The correction for each ridge λ (in units of the scaled Gram, whose diagonal is 1).

    λ = inf keeps the old weights (and corrects the bias alone, given an intercept). Channels that never vary get
    no correction. Source: ridge regression in standardised variables; one Cholesky factorisation per λ.
    """
    n = max(equations.count, 1)
    gram, cross = equations.xx, equations.xr
    mean_x, mean_r = equations.x / n, equations.r / n
    if intercept:
        gram = gram - n * mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
        cross = cross - n * mean_x.unsqueeze(2) * mean_r.unsqueeze(1)
    power = equations.xx.diagonal(dim1=1, dim2=2)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    alive = (diagonal > _DEAD * power) & (diagonal > 0)
    scale = torch.where(alive, diagonal.clamp_min(_TINY).rsqrt(), torch.zeros_like(diagonal))
    scaled = gram * scale.unsqueeze(2) * scale.unsqueeze(1)
    right = cross * scale.unsqueeze(2)
    found: list[Correction] = []
    for ridge in ridges:
        if ridge == float("inf"):
            weight = torch.zeros_like(cross)
        else:
            system = scaled.clone()
            system.diagonal(dim1=1, dim2=2).add_(ridge + (~alive).double())
            factor, failed = torch.linalg.cholesky_ex(system)
            weight = torch.cholesky_solve(right, factor) * scale.unsqueeze(2)
            weight[failed != 0] = 0  # rounding beats a ridge this small: that group keeps its weights
        bias = mean_r - torch.einsum("gk,gko->go", mean_x, weight) if intercept else torch.zeros_like(mean_r)
        found.append(Correction(weight, bias))
    return found


def squared_error(equations: Normal, correction: Correction) -> torch.Tensor:
    """Σ over rows of (r − xΔ − δ)², per output: shape (g, O). Never negative."""
    weight, bias = correction.weight, correction.bias
    fit = (weight * equations.xr).sum(1)
    quadratic = (weight * (equations.xx @ weight)).sum(1)
    shifted = torch.einsum("gk,gko->go", equations.x, weight)
    constant = bias * (2 * shifted - 2 * equations.r + equations.count * bias)
    return (equations.rr - 2 * fit + quadratic + constant).clamp_min(0)


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen correction, refitted on all rows.

    ``ridge`` is None where the old weights are kept as they are. ``before`` and ``after``: relative squared
    error on held-out inputs (1.0 would be that of predicting zero), with the old weights and the chosen ones.
    """

    correction: Correction | None
    ridge: float | None
    before: float
    after: float


def choose(
    folds: list[Normal],
    ridges: tuple[float, ...],
    *,
    intercept: bool,
    importance: torch.Tensor,
    power: float,
    held_out: int,
) -> Choice:
    """Choose λ by the error on held-out folds (the first ``held_out`` of them in turn), then refit on all.

    ``importance`` (g, O) weighs the squared errors of the outputs; ``power`` is the weighted Σ target², for the
    relative figures. Keeping the old weights is always among the candidates, so that the held-out error never
    rises.
    """
    parts = [fold for fold in folds if fold.count]
    if len(parts) < 2:
        return Choice(None, None, 0.0, 0.0)
    everything = total(parts)
    errors = torch.zeros(len(ridges), dtype=torch.float64)
    old = 0.0
    tested = parts[: max(1, held_out)]
    for index, held in enumerate(tested):
        rest = total([part for other, part in enumerate(parts) if other != index])
        for which, correction in enumerate(solve(rest, ridges, intercept=intercept)):
            errors[which] += (squared_error(held, correction) * importance).sum()
        old += float((held.rr * importance).sum())
    share = sum(part.count for part in tested) / everything.count
    unit = max(power * share, _TINY)
    best = int(errors.argmin())
    if not float(errors[best]) < old:
        return Choice(None, None, old / unit, old / unit)
    chosen = solve(everything, (ridges[best],), intercept=intercept)[0]
    return Choice(chosen, ridges[best], old / unit, float(errors[best]) / unit)


_DEAD = 1e-10
"""A channel whose variance is below this share of its power only rounds."""
_TINY = 1e-300
