"""Normal equations of a weight *correction*, and its ridge solutions.

For rows x (width K), old weights W and residuals r = y − xW − b, the correction (Δ, δ) minimizes
‖r − xΔ − δ‖² + λ ‖D^½ Δ‖²: a ridge toward the *old* weights. D is the diagonal of the Gram plus the squared
mean of its roots: without the first λ would depend on the scale of the input, without the second a channel
that is almost silent on the repair inputs could take any weight. A channel that hardly varies about its mean
counts as varying at least ``1 / GROWTH`` of its root mean square, and what a correction makes of any channel
stays within ``GROWTH`` times the residual (``_bounded``). Everything is float64 and batched over groups g.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from otgraph.transport.rounding import FLOOR, GROWTH, rounding_share

SINGLE = 0.01
"""From this relative ridge on the rounding of single precision is of no account in a system."""


@dataclass(frozen=True, eq=False)
class Normal:
    """Sums over ``count`` rows. Shapes: ``x`` (g, K), ``r`` (g, O), ``xx`` (g, K, K), ``xr`` (g, K, O),
    ``rr`` (g, O). ``rounding``: the part of its power below which what a column varies is rounding."""

    count: int
    x: torch.Tensor
    r: torch.Tensor
    xx: torch.Tensor
    xr: torch.Tensor
    rr: torch.Tensor
    rounding: float = rounding_share()

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
        """Add rows (g, p, K) and residuals (g, p, O) *in place*; returns self with the new count.

        Products are taken in the type of the rows, sums of blocks in float64.
        """
        self.x.add_(rows.sum(1))
        self.r.add_(residuals.sum(1))
        if rows.dtype == torch.float64:
            self.xx.baddbmm_(rows.transpose(1, 2), rows)
            self.xr.baddbmm_(rows.transpose(1, 2), residuals)
        else:
            self.xx.add_(rows.transpose(1, 2) @ rows)
            self.xr.add_(rows.transpose(1, 2) @ residuals)
        self.rr.add_(residuals.square().sum(1))
        return Normal(self.count + rows.shape[1], self.x, self.r, self.xx, self.xr, self.rr, self.rounding)


@dataclass(frozen=True, eq=False)
class Correction:
    """What to add: ``weight`` (g, K, O), ``bias`` (g, O) (zero without an intercept)."""

    weight: torch.Tensor
    bias: torch.Tensor


def solve(
    equations: Normal,
    ridges: tuple[float, ...],
    *,
    intercept: bool,
    shrunk: bool = False,
    precision: torch.dtype = torch.float64,
) -> list[Correction]:
    """The correction for each ridge λ (relative to the scaled Gram, whose diagonal is near 1/2).

    λ = inf keeps the old weights (and corrects the bias alone, given an intercept). ``shrunk``: a finite λ
    holds the intercept back as it does a direction of typical variance, so that a large one is nearly no
    correction at all; a free intercept matches every mean however few the inputs are (EfficientNet-Lite0 with
    a block deleted: KL 0.045 unrepaired, 0.26 with λ = 30 and a free one, 0.047 with a shrunk one). Channels
    that never vary get no correction, and none grows beyond ``_bounded``. ``precision``: of the
    factorization; single suffices for trials with ridges that are far above its rounding. Source: ridge
    regression in scaled variables; one Cholesky factorization per λ.
    """
    n = max(equations.count, 1)
    gram, cross = equations.xx, equations.xr
    mean_x, mean_r = equations.x / n, equations.r / n
    if intercept:
        gram = (n * mean_x.unsqueeze(2) * mean_x.unsqueeze(1)).neg_().add_(gram)
        cross = cross - n * mean_x.unsqueeze(2) * mean_r.unsqueeze(1)
    power = equations.xx.diagonal(dim1=1, dim2=2)
    scale, size = _scale(gram.diagonal(dim1=1, dim2=2), power, equations.rounding)
    scaled = gram.mul_(scale.unsqueeze(2)) if intercept else gram * scale.unsqueeze(2)
    scaled = scaled.mul_(scale.unsqueeze(1)).to(precision)
    right = (cross * scale.unsqueeze(2)).to(precision)
    found: list[Correction] = []
    for ridge in ridges:
        if ridge == float("inf"):
            weight = torch.zeros_like(cross)
        else:
            system = scaled.clone()
            system.diagonal(dim1=1, dim2=2).add_(ridge + (scale == 0).to(precision))
            factor, failed = torch.linalg.cholesky_ex(system)
            del system  # these matrices may have hundreds of megabytes each
            weight = torch.cholesky_solve(right, factor).double() * scale.unsqueeze(2)
            del factor
            weight[failed != 0] = 0  # rounding beats a ridge this small: that group keeps its weights
            weight = _bounded(weight, size, equations.rr)
        held = 1 + 2 * ridge if shrunk and ridge != float("inf") else 1.0
        shift = mean_r / held - torch.einsum("gk,gko->go", mean_x, weight)
        bias = shift if intercept else torch.zeros_like(mean_r)
        found.append(Correction(weight, bias))
    return found


def solve_rows(
    rows: torch.Tensor, residuals: torch.Tensor, ridge: float, *, intercept: bool, shrunk: bool = False
) -> Correction:
    """As ``solve`` for one ridge, from the rows (g, p, K) and residuals (g, p, O) themselves, in their type.

    In the dual form, a system of p rows in the place of one of K columns: much less where columns are more
    than rows (one row's weight per equation; Saunders, Gammerman & Vovk 1998).
    """
    mean_x = rows.mean(1, keepdim=True)
    mean_r = residuals.mean(1, keepdim=True)
    centered = rows - mean_x if intercept else rows
    wanted = residuals - mean_r if intercept else residuals
    power = rows.square().sum(1)
    diagonal = centered.square().sum(1)
    scale, size = _scale(diagonal, power, rounding_share(torch.finfo(rows.dtype).eps))
    scale = scale.unsqueeze(1)
    scaled = centered * scale
    system = scaled @ scaled.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(system)
    weight = (scaled.transpose(1, 2) @ torch.cholesky_solve(wanted, factor)) * scale.transpose(1, 2)
    weight[failed != 0] = 0
    weight = _bounded(weight, size, residuals.square().sum(1))
    if not intercept:
        return Correction(weight.double(), torch.zeros_like(mean_r).squeeze(1).double())
    shift = mean_r / (1 + 2 * ridge if shrunk else 1.0) - mean_x @ weight
    return Correction(weight.double(), shift.squeeze(1).double())


def _scale(diagonal: torch.Tensor, power: torch.Tensor, rounding: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By which columns are multiplied (nothing is left of those that never vary), and how large each counts
    where corrections are bounded: its power and what columns typically vary."""
    alive = (diagonal > rounding * power) & (diagonal > 0)
    typical = diagonal.clamp_min(0).sqrt().mean(1, keepdim=True).square()
    varies = torch.maximum(diagonal, FLOOR * power) + typical
    scale = torch.where(alive, varies.clamp_min(_TINY).rsqrt(), torch.zeros_like(diagonal))
    return scale, (power + typical).clamp_min(0).sqrt()


def _bounded(weight: torch.Tensor, size: torch.Tensor, rr: torch.Tensor) -> torch.Tensor:
    """``weight`` (g, K, O), each output's drawn back toward 0 as far as ``|Δ_ko| · size_k`` exceeds
    ``GROWTH`` times the root of ``rr`` (g, O). Errors are convex: what is left is no worse than the old
    weights on the rows of the fit, wherever the whole was not."""
    largest = (weight.abs() * size.unsqueeze(2)).amax(1)
    share = (GROWTH * rr.clamp_min(0).sqrt() / largest.clamp_min(_TINY)).clamp_max(1.0)
    return weight * share.unsqueeze(1).to(weight.dtype)


def squared_error(equations: Normal, correction: Correction) -> torch.Tensor:
    """Σ over rows of (r − xΔ − δ)², per output: shape (g, O). Never negative."""
    weight, bias = correction.weight, correction.bias
    fit = (weight * equations.xr).sum(1)
    quadratic = (weight * (equations.xx @ weight)).sum(1)
    shifted = torch.einsum("gk,gko->go", equations.x, weight)
    constant = bias * (2 * shifted - 2 * equations.r + equations.count * bias)
    return (equations.rr - 2 * fit + quadratic + constant).clamp_min(0)


@dataclass(frozen=True, eq=False)
class RidgeChoice:
    """A chosen correction.

    ``correction`` and ``ridge`` are None where the old weights are kept as they are. ``before`` and
    ``after``: squared error over the power of the target on held-out inputs, with the old weights and with
    the chosen ones.
    """

    correction: Correction | None
    ridge: float | None
    before: float
    after: float


def choose(
    fit: Normal,
    held: Normal,
    ridges: tuple[float, ...],
    importance: torch.Tensor,
    power: float,
    *,
    intercept: bool,
    shrunk: bool = False,
) -> RidgeChoice:
    """Solve ``fit`` for each ridge and take the one with the smallest error on ``held``.

    ``importance`` (g, O) weighs the squared errors of the outputs; ``power`` is the weighted Σ target² of the
    held-out rows. Keeping the old weights is a candidate too, so the held-out error never rises.
    """
    unit = max(power, _TINY)
    before = float((held.rr * importance).sum()) / unit
    best = RidgeChoice(None, None, before, before)
    for ridge, correction in zip(ridges, solve(fit, ridges, intercept=intercept, shrunk=shrunk), strict=True):
        error = float((squared_error(held, correction) * importance).sum()) / unit
        if error < best.after:
            best = RidgeChoice(correction, ridge, before, error)
    return best


_TINY = 1e-300
