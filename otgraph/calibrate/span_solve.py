"""From the sums of a span to the numbers of a map, by each estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from otgraph.calibrate.downhill import downhill
from otgraph.calibrate.moments import MeanVariance, Vector
from otgraph.calibrate.normal import SINGLE, Correction, solve, squared_error
from otgraph.calibrate.span_sums import SpanSums, Watched
from otgraph.calibrate.transport_map import gaussian_map
from otgraph.graph.span import Collapse, Estimator
from otgraph.transport.bures import Gaussian, gaussian_transport
from otgraph.transport.rounding import FLOOR

SPAN_RIDGES = (1e-5, 1e-3, 1e-2, 0.1, 1.0)
"""Toward the identity, or toward zero where the map stands for a branch or its ends differ in shape. An
infinite one, which fits a constant alone, is tried too."""

FIRST = 2
"""Which of them is looked at first."""


@dataclass(frozen=True, eq=False)
class Solved:
    """``weight`` (K, O) and ``bias`` (O,) of the map that is *added* to the identity (to nothing where the
    ends differ in shape), the ``ridge`` chosen, errors on both parts, and what had to be done otherwise.

    ``error`` and ``fitted``: squared error over the energy of what is reproduced, held out and on the fitted
    inputs. ``effect``: the held-out squared error over the variance of the exit.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    ridge: float | None
    error: float
    fitted: float
    effect: float
    note: str = ""


def solve_span(watched: Watched, collapse: Collapse, fit: SpanSums, held: SpanSums) -> Solved:
    """The map of ``collapse``: estimated on ``fit``, its ridge chosen and its error taken on ``held``, and
    estimated again on both."""
    note = ""
    if collapse.map != "conv" and watched.source.width != watched.site.entry:
        fit, held = (sums.restricted(watched.source.own) for sums in (fit, held))
    if not held.rows.count or not fit.rows.count:
        fit = held = fit if fit.rows.count else held
        note = "too few inputs to hold any out; "
    estimate, ridge, said = _estimator(watched, collapse, fit, held)
    trial = estimate(fit)
    error, effect = _errors(watched, held, trial)
    final = trial if fit is held else estimate(fit.plus(held))
    return Solved(
        final.weight[0],
        final.bias[0],
        ridge,
        error,
        _errors(watched, fit, trial)[0],
        effect,
        note + said,
    )


Estimate = Callable[[SpanSums], Correction]


def _estimator(
    watched: Watched, collapse: Collapse, fit: SpanSums, held: SpanSums
) -> tuple[Estimate, float | None, str]:
    """How to estimate, at which ridge, and what was done otherwise than asked."""
    if collapse.map == "identity":
        return _nothing, None, ""
    estimator: Estimator = collapse.estimator
    note = ""
    if estimator == "gaussian" and (collapse.map == "conv" or not watched.site.same):
        reason = "a convolution" if collapse.map == "conv" else "ends of different shape"
        estimator, note = "moments", f"no Gaussian map for {reason}; moments instead"
    if collapse.map == "affine":
        return _AFFINE[estimator](watched), None, note
    if estimator == "gaussian":
        return _gaussian, None, note
    ridge = _ridge(fit, held)

    def least_squares(sums: SpanSums) -> Correction:
        return solve(sums.normal, (ridge,), intercept=True)[0]

    if estimator == "least-squares":
        return least_squares, ridge, note
    return lambda sums: _restored(watched, sums, least_squares(sums)), ridge, note


def _ridge(fit: SpanSums, held: SpanSums) -> float:
    """That of the smallest held-out error: with so many columns each one tried takes seconds."""
    fitted, judged = fit.normal, held.normal

    def error(ridge: float) -> float:
        precision = torch.float32 if ridge >= SINGLE else torch.float64
        found = solve(fitted, (ridge,), intercept=True, precision=precision)
        return float(squared_error(judged, found[0]).sum())

    errors: dict[float, float] = {math.inf: error(math.inf)}

    def score(at: int) -> float:
        errors[SPAN_RIDGES[at]] = error(SPAN_RIDGES[at])
        return errors[SPAN_RIDGES[at]]

    downhill(score, FIRST, len(SPAN_RIDGES))
    return min(errors, key=lambda ridge: errors[ridge])


def _errors(watched: Watched, sums: SpanSums, map_: Correction) -> tuple[float, float]:
    """Squared error over the energy of what is reproduced, and over the variance of the exit."""
    wrong = float(squared_error(sums.normal, map_).sum())
    n = max(sums.rows.count, 1)
    spread = float((sums.targets.y2 - sums.targets.y.square() / n).clamp_min(0).sum())
    update = float(sums.targets.rr.diagonal().sum())
    energy = spread if watched.span.branch is None else update
    return wrong / max(energy, _TINY), wrong / max(spread, _TINY)


def _nothing(sums: SpanSums) -> Correction:
    k, o = sums.targets.xr.shape
    return Correction(torch.zeros(1, k, o, dtype=torch.float64), torch.zeros(1, o, dtype=torch.float64))


def _affine(sums: SpanSums) -> Correction:
    """The regression of each channel on itself."""
    n = max(sums.rows.count, 1)
    x, r = sums.rows.x / n, sums.targets.r / n
    power = sums.rows.xx.diagonal() / n
    variance = power - x.square()
    # What hardly varies counts as varying a little more, lest a slope that nothing determines grow large.
    slope = (sums.targets.xr.diagonal() / n - x * r) / torch.maximum(variance, FLOOR * power)
    slope = torch.where(variance > sums.rounding * power, slope, torch.zeros_like(slope))
    return Correction(torch.diag(slope)[None], (r - slope * x)[None])


def _affine_gaussian(sums: SpanSums) -> Correction:
    """The 1-D Gaussian map of each channel from entry to exit."""
    entry, exit_ = _entry(sums), _exit(sums)
    n = sums.rows.count
    move = gaussian_map(
        MeanVariance(n, entry.mean, np.maximum(np.diag(entry.covariance), 0.0)),
        MeanVariance(n, exit_.mean, np.maximum(np.diag(exit_.covariance), 0.0)),
    )
    return Correction(torch.diag(torch.from_numpy(move.scale) - 1)[None], torch.from_numpy(move.shift)[None])


def _gaussian(sums: SpanSums) -> Correction:
    """The Bures map from entry to exit, less the identity."""
    entry, exit_ = _entry(sums), _exit(sums)
    matrix = gaussian_transport(entry, exit_)
    shift = exit_.mean - matrix @ entry.mean
    weight = torch.from_numpy(matrix.T - np.eye(len(matrix)))
    return Correction(weight[None], torch.from_numpy(shift)[None])


def _restored(watched: Watched, sums: SpanSums, map_: Correction) -> Correction:
    """``map_`` followed by each channel's factor and shift that give the target's mean and variance.

    The target is what the map stands for: the branch's update, else the exit.
    """
    n = max(sums.rows.count, 1)
    weight, bias = map_.weight[0], map_.bias[0]
    own = _own_columns(watched, sums) if watched.based else None
    if own is not None:
        weight = weight.clone()
        weight[own, torch.arange(weight.shape[1])] += 1
    mean = sums.rows.x / n
    power = (weight * (sums.rows.xx @ weight)).sum(0) / n
    spread = power - (mean @ weight).square()
    spread = torch.where(spread > sums.rounding * power, spread, torch.zeros_like(spread))
    if watched.based:
        goal_mean, goal_second = sums.targets.y / n, sums.targets.y2 / n
    else:
        goal_mean, goal_second = sums.targets.r / n, sums.targets.rr.diagonal() / n
    goal = MeanVariance(n, goal_mean.numpy(), (goal_second - goal_mean.square()).clamp_min(0).numpy())
    move = gaussian_map(MeanVariance(n, (mean @ weight + bias).numpy(), spread.numpy()), goal)
    scale = torch.from_numpy(move.scale)
    weight = weight * scale
    if own is not None:
        weight[own, torch.arange(weight.shape[1])] -= 1
    return Correction(weight[None], (bias * scale + torch.from_numpy(move.shift))[None])


def _own_columns(watched: Watched, sums: SpanSums) -> torch.Tensor:
    """The columns that hold the position itself, in sums that may have been restricted to them."""
    whole = sums.rows.width == watched.source.width
    return watched.source.own if whole else torch.arange(watched.site.entry)


def _entry(sums: SpanSums) -> Gaussian:
    n = max(sums.rows.count, 1)
    mean = (sums.rows.x / n).numpy()
    return _gaussian_of(mean, (sums.rows.xx / n).numpy(), sums.rounding)


def _exit(sums: SpanSums) -> Gaussian:
    """Of entry plus residual, from sums over one shape of both."""
    n = max(sums.rows.count, 1)
    mean = ((sums.rows.x + sums.targets.r) / n).numpy()
    second = (sums.rows.xx + sums.targets.xr + sums.targets.xr.T + sums.targets.rr) / n
    return _gaussian_of(mean, second.numpy(), sums.rounding)


def _gaussian_of(mean: Vector, second: Vector, rounding: float) -> Gaussian:
    """Of moments (n,) and (n, n); a variance that is rounding is 0, and so is what goes with it."""
    covariance = second - np.outer(mean, mean)
    alive = np.diagonal(covariance) > rounding * np.diagonal(second)
    return Gaussian(mean, covariance * np.outer(alive, alive))


def _affine_restored(watched: Watched) -> Estimate:
    return lambda sums: _restored(watched, sums, _affine(sums))


_AFFINE: dict[Estimator, Callable[[Watched], Estimate]] = {
    "least-squares": lambda _: _affine,
    "moments": _affine_restored,
    "gaussian": lambda _: _affine_gaussian,
}

_TINY = 1e-30
