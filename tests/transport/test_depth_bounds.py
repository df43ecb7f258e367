"""Lower bounds between distributions: true on any pairing, tight where theory says so, against POT."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.transport.bures import (
    Gaussian,
    gaussian_transport,
    gelbrich,
    gelbrich_of,
    rank_floor,
    rank_floor_of,
)
from otgraph.transport.max_sliced import max_sliced, projected_distance, sliced_sum
from otgraph.transport.pair_bounds import PairBounds, hopeless, pair_bounds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot

Floats = npt.NDArray[np.float64]


def paired(x: Floats, y: Floats) -> float:
    return float(np.square(x - y).sum(1).mean())


def exact(x: Floats, y: Floats) -> float:
    """W₂² of the two samples, by POT's linear program."""
    return float(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), ot.dist(x, y), numItermax=1_000_000))


def skewed(seed: int, m: int = 40, n: int = 5) -> tuple[Floats, Floats]:
    """Two samples that are far from Gaussian, of which one depends on the other."""
    random = np.random.default_rng(seed)
    x = random.gamma(0.7, size=(m, n)) @ random.standard_normal((n, n))
    y = np.maximum(x @ random.standard_normal((n, n)) + random.standard_normal(n), 0)
    return x, y + 0.3 * random.standard_normal((m, n))


@pytest.mark.parametrize("seed", range(8))
def test_every_bound_is_below_the_exact_distance_and_that_below_the_paired_error(seed: int) -> None:
    x, y = skewed(seed)
    bounds = pair_bounds(x, y)
    assert bounds.bures is not None and bounds.max_sliced is not None
    distance = exact(x, y)
    for bound in (bounds.axes, bounds.bures, bounds.max_sliced):
        assert 0 < bound <= distance * (1 + 1e-9)
    assert distance <= paired(x, y) * (1 + 1e-9)
    assert bounds.best == max(bounds.axes, bounds.bures, bounds.max_sliced)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 6))
def test_no_bound_exceeds_the_paired_error_on_random_data(seed: int, m: int, n: int) -> None:
    x, y = skewed(seed, m, n)
    assert pair_bounds(x, y).best <= paired(x, y) * (1 + 1e-7) + 1e-9


def test_a_wrong_bound_would_be_noticed() -> None:
    """Traces without the cross term are what Gelbrich's bound would be if one forgot that both may agree."""
    x, _ = skewed(1)
    y = x + 0.01
    one, other = Gaussian.of(x), Gaussian.of(y)
    wrong = float(np.trace(one.covariance) + np.trace(other.covariance))
    assert wrong > 100 * paired(x, y) and gelbrich(one, other) <= paired(x, y) * (1 + 1e-6)


def test_rows_in_another_order_are_at_no_distance_however_large_the_paired_error() -> None:
    x, _ = skewed(2, m=200)
    y = x[np.random.default_rng(0).permutation(len(x))]
    bounds = pair_bounds(x, y)
    assert bounds.best < 1e-9 * paired(x, y)


def test_gelbrich_agrees_with_pot_and_with_the_closed_form_on_the_line() -> None:
    x, y = skewed(3, m=500)
    one, other = Gaussian.of(x), Gaussian.of(y)
    pot = ot.gaussian.bures_wasserstein_distance(one.mean, other.mean, one.covariance, other.covariance)
    assert gelbrich(one, other) == pytest.approx(float(pot) ** 2, rel=1e-6)
    a, b = Gaussian(np.array([1.0]), np.array([[4.0]])), Gaussian(np.array([3.0]), np.array([[0.25]]))
    assert gelbrich(a, b) == pytest.approx(2.0**2 + 1.5**2)


def test_gelbrich_is_attained_by_an_increasing_affine_map() -> None:
    x, _ = skewed(4, m=60)
    root = np.random.default_rng(4).standard_normal((5, 5))
    y = x @ (root @ root.T) + 2.0  # a positive map is optimal, whatever the distribution
    assert gelbrich(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(paired(x, y), rel=1e-6)
    assert exact(x, y) == pytest.approx(paired(x, y), rel=1e-6)


def test_singular_covariances_are_no_obstacle() -> None:
    x, y = skewed(5, m=4, n=8)  # fewer samples than dimensions
    assert 0 < gelbrich(Gaussian.of(x), Gaussian.of(y)) <= paired(x, y) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 12))
def test_samples_and_their_moments_give_the_same_bounds(seed: int, m: int, n: int) -> None:
    x, y = skewed(seed, m, n)
    scale = float(np.square(x).sum() + np.square(y).sum()) / m
    assert gelbrich_of(x, y) == pytest.approx(gelbrich(Gaussian.of(x), Gaussian.of(y)), abs=1e-6 * scale)
    for rank in (0, 1, n // 2, n):
        expected = rank_floor(Gaussian.of(y).covariance, rank)
        assert rank_floor_of(y, rank) == pytest.approx(expected, abs=1e-9 * scale)


def test_the_gaussian_map_is_that_of_pot_and_carries_the_moments() -> None:
    x, y = skewed(6, m=400)
    one, other = Gaussian.of(x), Gaussian.of(y)
    found = gaussian_transport(one, other)
    pot, _ = ot.gaussian.bures_wasserstein_mapping(one.mean, other.mean, one.covariance, other.covariance)
    np.testing.assert_allclose(found, pot, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found @ one.covariance @ found.T, other.covariance, rtol=1e-7, atol=1e-9)


def test_directions_in_which_the_source_is_constant_are_left_alone() -> None:
    x, y = skewed(7, m=300)
    x[:, 2] = 1.0
    found = gaussian_transport(Gaussian.of(x), Gaussian.of(y))
    np.testing.assert_allclose(found[2], np.eye(5)[2], atol=1e-9)
    assert np.isfinite(found).all()


def test_no_affine_map_of_so_few_numbers_goes_below_the_rank_floor() -> None:
    random = np.random.default_rng(8)
    x = random.standard_normal((300, 2))
    y = np.tanh(x @ random.standard_normal((2, 6))) + 0.2 * random.standard_normal((300, 6))
    floor = rank_floor(Gaussian.of(y).covariance, 2)
    design = np.c_[x, np.ones(300)]
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert 0 < floor <= paired(fitted, y)
    values, vectors = np.linalg.eigh(Gaussian.of(y).covariance)
    best = y @ vectors[:, -2:] @ vectors[:, -2:].T + y.mean(0) @ vectors[:, :-2] @ vectors[:, :-2].T
    assert floor == pytest.approx(paired(best, y)) and floor == pytest.approx(values[:-2].sum())
    assert rank_floor(Gaussian.of(y).covariance, 6) == 0


def test_ascent_finds_the_direction_of_a_shift_that_random_ones_miss() -> None:
    random = np.random.default_rng(9)
    x = random.standard_normal((256, 128))
    y = random.standard_normal((256, 128))
    direction = random.standard_normal(128)
    direction /= np.linalg.norm(direction)
    y += 4.0 * direction
    found = max_sliced(x, y)
    assert found.value > 16 and abs(found.direction @ direction) > 0.7
    assert np.linalg.norm(found.direction) == pytest.approx(1)
    lines = random.standard_normal((128, 50))
    assert projected_distance(x @ (lines / np.linalg.norm(lines, axis=0)), y @ lines).max() > 0
    drawn = projected_distance(
        x @ (lines / np.linalg.norm(lines, axis=0)), y @ (lines / np.linalg.norm(lines, axis=0))
    )
    assert drawn.max() < found.value / 4


def test_ascent_beats_its_starts() -> None:
    """Two ends of one cloud against its middle: no mean shift, and a tilted direction that no start knows."""
    random = np.random.default_rng(10)
    turn = np.linalg.qr(random.standard_normal((6, 6)))[0]
    sides = random.choice([-1.0, 1.0], 400)[:, None] * np.eye(6)[0]
    x = (3 * sides + 0.2 * random.standard_normal((400, 6))) @ turn
    y = (
        0.2 + 3 * random.standard_normal((400, 1)) * np.eye(6)[0] + 0.2 * random.standard_normal((400, 6))
    ) @ turn
    still, moved = max_sliced(x, y, steps=0, starts=1), max_sliced(x, y, starts=1)
    assert moved.value > still.value
    assert max_sliced(x, y, starts=1, seed=5).value >= moved.value * 0.9


def test_the_sum_over_any_orthonormal_basis_is_a_bound() -> None:
    x, y = skewed(11)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    for basis in (None, turn, turn[:, :2]):
        assert sliced_sum(x, y, basis) <= exact(x, y) * (1 + 1e-9)
    assert sliced_sum(x, y, 2 * turn) > exact(x, y)  # not orthonormal: no bound


def test_bounds_stop_at_the_first_that_is_enough() -> None:
    x, _ = skewed(12, m=200)
    y = x + x @ np.full((5, 5), 0.4)  # a positive map across the axes: Gelbrich's bound is tight
    assert pair_bounds(x, y, enough=0.0) == PairBounds(sliced_sum(x, y))
    everything = pair_bounds(x, y)
    assert everything.bures is not None and everything.bures > everything.axes
    some = pair_bounds(x, y, enough=(everything.axes + everything.bures) / 2)
    assert some.bures == everything.bures and some.max_sliced is None
    assert hopeless(2.0, 1.0) and not hopeless(2.0, 1.0, threshold=2.5)
