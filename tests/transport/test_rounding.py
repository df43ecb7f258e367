"""What the moments determine: variances that are rounding, and the bounds on what is made of the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.transport.bures import Gaussian, gaussian_transport
from otgraph.transport.cost import (
    Reading,
    reexpression,
    reexpression_noise,
    rerouting_cost,
    routing_scales,
)
from otgraph.transport.elimination import eliminate_backward, eliminate_forward
from otgraph.transport.problem import rerouting_problem
from otgraph.transport.rounding import (
    CANCELLATION,
    FLOOR,
    GROWTH,
    SINGLE,
    floored,
    rounding_share,
    summed_share,
)
from otgraph.transport.selection import select

KINDS = ("constant", "silent", "rounding", "noise", "nearly", "twin", "once", "offset", "plain")


def reading(kinds: list[str], seed: int, centered: bool = True) -> Reading:
    """A reader of channels of these kinds, as single precision would have computed them."""
    rng = np.random.default_rng(seed)
    m, n = 500, len(kinds)
    base = np.maximum(rng.normal(size=(m, 3)) @ rng.normal(size=(3, n)) + 0.3 * rng.normal(size=(m, n)), 0)
    x = base.copy()
    for j, kind in enumerate(kinds):
        x[:, j] = {
            "constant": np.full(m, 0.7),
            "silent": np.zeros(m),
            "rounding": 3.0 + SINGLE * rng.normal(size=m),
            "noise": 1e-8 * rng.normal(size=m),
            "nearly": 1.0 + 1e-4 * base[:, j],
            "twin": 2.0 * base[:, 0],
            "once": np.where(np.arange(m) == j, 0.1, 0.0),
            "offset": 300.0 + base[:, j],
            "plain": base[:, j],
        }[kind]
    weight = rng.normal(size=(6, n))
    return Reading("w", x.T @ x / m, weight.T @ weight, x.mean(0), centered, rounding_share())


kinds_lists = st.lists(st.sampled_from(KINDS), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(kinds_lists, st.integers(0, 99), st.booleans())
def test_no_factor_exceeds_its_bounds_and_costs_know_it(kinds: list[str], seed: int, centered: bool) -> None:
    made = reading(kinds, seed, centered)
    moment, n = made.second_moment(), len(kinds)
    deviation, rms = np.sqrt(np.diagonal(moment)), np.sqrt(made.energy())
    cost, drop = rerouting_cost([made])
    gain = np.diagonal(made.gain)
    column = np.sqrt(gain)
    canceled = 1e-14 * float(np.sum(gain * made.energy()))  # what centering leaves of double precision
    for i in range(n):
        target = np.full(n, i)
        factor = routing_scales(made, target)
        others = np.arange(n) != i
        assert (abs(factor) * rms[i] <= GROWTH * deviation * (1 + 1e-9))[others].all()
        assert (abs(factor) * column <= GROWTH * column.max() * (1 + 1e-9))[others].all()
        left = np.diagonal(moment) - 2 * factor * moment[:, i] + factor**2 * moment[i, i]
        assert np.allclose((gain * left)[others], cost[others, i], rtol=1e-7, atol=canceled)
    assert (cost <= drop[:, None] * (1 + 1e-9) + canceled).all()  # a bounded slope never does harm


@settings(max_examples=60, deadline=None)
@given(kinds_lists, st.integers(0, 99), st.data())
def test_no_column_of_a_reexpression_exceeds_the_bound(
    kinds: list[str], seed: int, data: st.DataObject
) -> None:
    made, n = reading(kinds, seed), len(kinds)
    kept = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
    found = reexpression(made, kept)
    moment = made.second_moment()
    deviation, rms = np.sqrt(np.diagonal(moment)), np.sqrt(made.energy()[kept])
    removed = np.setdiff1d(np.arange(n), kept)
    assert (abs(found[removed]) * rms <= GROWTH * deviation[removed, None] * (1 + 1e-9)).all()
    noise = np.sqrt(reexpression_noise(made, moment))[kept]
    assert (np.linalg.norm(found[removed] * noise, axis=1) <= deviation[removed] / 2 * (1 + 1e-9)).all()


def test_a_channel_that_hardly_varies_about_its_mean_stands_for_no_other() -> None:
    made = reading(["offset", "offset"], seed=0)
    deviation, rms = np.sqrt(made.second_moment()[1, 1]), np.sqrt(made.energy()[0])
    assert rms > 3 * GROWTH * deviation  # a plain slope of about one would exceed the bound
    assert 0 < abs(reexpression(made, np.array([0]))[1, 0]) * rms <= GROWTH * deviation


@pytest.mark.parametrize("kind", ["constant", "silent", "rounding", "noise"])
def test_what_only_rounds_is_exactly_zero(kind: str) -> None:
    made = reading(["plain", kind, "plain", "nearly", "once", "twin"], seed=3)
    moment = made.second_moment()
    assert not moment[1].any() and not moment[:, 1].any()
    assert (np.diagonal(moment)[[0, 2, 3, 4, 5]] > 0).all()
    assert made.constant().tolist() == [False, kind != "noise", *[False] * 4]


@settings(max_examples=40, deadline=None)
@given(kinds_lists, st.integers(0, 99))
def test_every_order_gives_up_first_what_never_moves(kinds: list[str], seed: int) -> None:
    made = reading(["plain", *kinds], seed)
    dead = np.diagonal(made.second_moment()) == 0.0
    curves = [
        eliminate_backward([made], ridge=0.1),
        eliminate_forward([made], ridge=0.1),
        select(rerouting_problem([made])),
    ]
    for curve in curves:
        assert set(curve.order[len(dead) - dead.sum() :]) == set(np.flatnonzero(dead))


def test_of_constants_those_go_first_that_give_nothing() -> None:
    made = reading(["constant", "plain", "silent", "constant", "silent", "plain"], seed=0)
    for eliminate in (eliminate_backward, eliminate_forward):
        order = eliminate([made], ridge=0.1).order
        assert set(order[4:]) == {2, 4} and set(order[2:4]) == {0, 3}


def test_ties_of_rounding_are_decided_by_what_dropping_costs() -> None:
    x = np.random.default_rng(0).normal(size=(400, 3))
    both = np.concatenate([x, x], 1)  # every channel can go for nothing, the smaller of each pair is asked to
    both[:, 3:] *= 0.5
    made = Reading("w", both.T @ both / 400, np.eye(6))
    assert set(eliminate_backward([made], ridge=1e-13).order[3:]) == {3, 4, 5}
    assert set(select(rerouting_problem([made])).order[3:]) == {3, 4, 5}


def test_the_thresholds_follow_the_precision() -> None:
    assert rounding_share() == pytest.approx((64 * 2.0**-23) ** 2)
    assert rounding_share(2.0**-52) == CANCELLATION
    assert rounding_share(2.0**-7) == FLOOR  # bfloat16: what varies visibly still varies
    assert rounding_share() < summed_share(SINGLE, 8192) < FLOOR
    assert summed_share(SINGLE, 8192) == pytest.approx(8192**0.5 * SINGLE)
    energy = np.array([4.0, 4.0, 4.0])
    assert floored(np.array([0.0, 1e-9, 1.0]), energy).tolist() == [0.0, 4.0 * FLOOR, 1.0]


def test_a_bures_map_does_not_scale_up_what_the_source_hardly_has() -> None:
    source = Gaussian(np.zeros(2), np.diag([1.0, 2e-6]))
    found = gaussian_transport(source, Gaussian(np.zeros(2), np.diag([1.0, 1.0])))
    assert np.linalg.eigvalsh(found).max() <= GROWTH * (1 + 1e-9)
    mild = Gaussian(np.zeros(2), np.diag([1.0, 0.1]))
    exact = gaussian_transport(mild, Gaussian(np.zeros(2), np.diag([1.0, 1.0])))
    np.testing.assert_allclose(exact, np.diag([1.0, 10**0.5]), atol=1e-12)
