"""Moments of channels that hardly vary, and the maps and corrections that are made of such moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otgraph.calibrate.moments import MeanVariance, MomentSum
from otgraph.calibrate.normal import Normal, solve, solve_rows
from otgraph.calibrate.transport_map import gaussian_map
from otgraph.transport.rounding import GROWTH


def _moments(rows: torch.Tensor) -> MomentSum:
    total = MomentSum(len(rows))
    for part in rows.split(5000, dim=1):
        total.add(part)
    return total


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
def test_a_small_variance_about_a_large_mean_is_resolved(mean: float) -> None:
    torch.manual_seed(0)
    rows = (mean + max(mean, 1.0) * 1e-4 * torch.randn(3, 40_000)).float()
    exact = np.cov(rows.double().numpy(), bias=True)
    found = _moments(rows).value()
    np.testing.assert_allclose(found.covariance(), exact, rtol=1e-3, atol=1e-3 * exact.max())
    assert (np.diagonal(found.covariance()) > found.rounding * np.diagonal(found.second)).all()


def test_a_constant_in_single_precision_has_no_variance() -> None:
    torch.manual_seed(0)
    level = torch.tensor([0.1, 0.7, 1234.567])[:, None]
    rows = level * (1 + 2.0**-23 * torch.randint(-8, 9, (3, 40_000)))
    found = _moments(torch.cat([rows, torch.randn(1, 40_000)]).float()).value()
    assert (np.diagonal(found.covariance()) <= found.rounding * np.diagonal(found.second)).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_half_precision_has_a_coarser_threshold() -> None:
    total = MomentSum(2)
    total.add(torch.randn(2, 100).half())
    fine = MomentSum(2)
    fine.add(torch.randn(2, 100).double())
    assert total.value().rounding > 1e-4 > 1e-11 > fine.value().rounding


def test_an_overflow_shows_in_the_moments() -> None:
    rows = torch.randn(2, 100)
    rows[1, 3] = float("inf")
    found = _moments(rows).value()
    assert np.isfinite(found.mean[0]) and not np.isfinite(found.mean[1])


def _problem(spread: float, mean: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of which the last column hardly varies, and a residual that its variation would explain."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 600, 4, generator=generator, dtype=torch.float64)
    wanted = rows[:, :, 3:] + rows[:, :, :1]
    rows[:, :, 3] = mean + spread * rows[:, :, 3]
    return rows, wanted


@pytest.mark.parametrize(("spread", "mean"), [(1e-4, 1.0), (1e-6, 1.0), (1e-5, 0.0), (1e-2, 300.0)])
@pytest.mark.parametrize("dual", [False, True])
def test_no_correction_grows_beyond_what_it_is_to_mend(spread: float, mean: float, dual: bool) -> None:
    rows, wanted = _problem(spread, mean)
    if dual:
        found = [solve_rows(rows, wanted, 1e-8, intercept=True)]
    else:
        equations = Normal.zero(1, 4, 1).add(rows, wanted)
        found = solve(equations, (1e-8, 1e-4, 1.0), intercept=True)
    residual = wanted.square().mean().sqrt()
    power = rows.square().mean(1)
    typical = (rows - rows.mean(1, keepdim=True)).square().mean(1).sqrt().mean().square()
    size = (power + typical).sqrt()[0]
    for each in found:
        assert (each.weight[0, :, 0].abs() * size <= GROWTH * residual * (1 + 1e-9)).all()
        left = wanted - rows @ each.weight - each.bias
        assert left.square().sum() <= (wanted - wanted.mean()).square().sum() * (1 + 1e-9)
        assert left.square().sum() <= wanted.square().sum() * (1 + 1e-9)


def test_an_ordinary_correction_is_the_plain_solution() -> None:
    rows, wanted = _problem(1.0, 0.5)
    equations = Normal.zero(1, 4, 1).add(rows, wanted)
    (found,) = solve(equations, (1e-8,), intercept=True)
    np.testing.assert_allclose(found.weight[0, :, 0], [1.0, 0.0, 0.0, 1.0], atol=1e-6)


def test_a_map_between_moments_does_not_scale_rounding() -> None:
    here = MeanVariance(9, np.array([1.0, 1.0, 1.0, 0.0]), np.array([1e-13, 1e-8, 1e-8, 0.25]))
    there = MeanVariance(9, np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1e-8, 1.0]))
    found = gaussian_map(here, there, floor=1e-9)
    np.testing.assert_allclose(found.scale, [1.0, GROWTH, 1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found.scale * here.mean + found.shift, there.mean, atol=1e-12)
