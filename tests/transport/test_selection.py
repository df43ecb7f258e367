"""Selection, swaps and bound against brute force, linear programs and POT."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from otgraph.errors import DataError
from otgraph.transport.bound import certify, lower_bound
from otgraph.transport.cost import Reading, damage
from otgraph.transport.problem import SelectionProblem, rerouting_problem
from otgraph.transport.selection import couple, distortion_along, refine, select


def _random_problem(n: int, seed: int, masses: bool = True) -> SelectionProblem:
    """A problem with zeros, ties and routes dearer than dropping; not a metric, not symmetric."""
    rng = np.random.default_rng(seed)
    cost = np.round(rng.gamma(1.0, 1.0, size=(n, n)) * rng.integers(0, 2, size=(n, n)), 2)
    cost += rng.choice([0.0, 0.3], size=(n, n))
    np.fill_diagonal(cost, 0.0)
    weights = rng.choice([0.0, 0.5, 1.0, 2.0], size=n) if masses else None
    return SelectionProblem(cost, np.round(rng.gamma(2.0, 0.5, size=n), 1), weights)


def _value(problem: SelectionProblem, kept) -> float:
    """The objective, written as its definition."""
    return sum(
        mass * (0.0 if j in kept else min([drop, *(problem.cost[j, i] for i in kept)]))
        for j, (mass, drop) in enumerate(zip(problem.weights(), problem.drop, strict=True))
    )


def _optimum(problem: SelectionProblem, k: int) -> float:
    return min(_value(problem, kept) for kept in combinations(range(problem.size), k))


problems = st.builds(_random_problem, st.integers(1, 8), st.integers(0, 10**6), st.booleans())


@settings(max_examples=150, deadline=None)
@given(problems)
def test_curve_is_nested_monotone_and_says_what_its_sets_cost(problem):
    curve = select(problem)
    n = problem.size
    assert curve.distortion[n] == 0.0
    assert curve.distortion[0] == pytest.approx(problem.weights() @ problem.drop)
    assert (np.diff(curve.distortion) <= 1e-12).all()
    for k in range(n + 1):
        assert curve.distortion[k] == pytest.approx(_value(problem, curve.kept(k)), abs=1e-12)
        assert problem.value(curve.kept(k)) == pytest.approx(curve.distortion[k], abs=1e-12)
        assert set(curve.kept(max(k - 1, 0))) <= set(curve.kept(k))
    along = distortion_along(problem, curve.order)
    np.testing.assert_allclose(along.distortion, curve.distortion, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(problems)
def test_each_removal_is_the_cheapest_there_is(problem):
    curve = select(problem)
    for k in range(problem.size, 0, -1):
        kept = curve.kept(k)
        cheapest = min(_value(problem, np.delete(kept, at)) for at in range(k))
        assert curve.distortion[k - 1] == pytest.approx(cheapest, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(problems, st.data())
def test_swaps_end_at_a_local_optimum_and_the_bound_stays_below_the_optimum(problem, data):
    k = data.draw(st.integers(1, problem.size))
    start = np.array(data.draw(st.permutations(range(problem.size)))[:k])
    kept = refine(problem, start)
    cost, optimum = problem.value(kept), _optimum(problem, k)
    assert len(set(kept)) == k and (np.diff(kept) > 0).all()
    assert optimum - 1e-9 <= cost <= problem.value(start) + 1e-12
    for leaver in kept:
        for comer in np.setdiff1d(np.arange(problem.size), kept):
            swapped = np.append(np.setdiff1d(kept, leaver), comer)
            assert problem.value(swapped) >= cost * (1.0 - 1e-9) - 1e-12
    certificate = certify(problem, kept)
    assert certificate.bound <= optimum + 1e-12
    assert 0.0 <= certificate.gap <= 1.0


@settings(max_examples=100, deadline=None)
@given(problems, st.integers(0, 10**6), st.data())
def test_any_potentials_give_a_valid_bound(problem, seed, data):
    k = data.draw(st.integers(1, problem.size))
    potentials = np.random.default_rng(seed).normal(0.5, 2.0, size=problem.size)
    assert lower_bound(problem, k, potentials) <= _optimum(problem, k) + 1e-12


def test_greedy_with_swaps_is_optimal_on_most_small_problems(make_channels):
    ratios = []
    for seed in range(40):
        problem = rerouting_problem([make_channels(9, seed=seed).reading])
        curve = select(problem)
        for k in (2, 4, 6):
            optimum = _optimum(problem, k)
            assert curve.distortion[k] <= 1.5 * optimum
            ratios.append(problem.value(refine(problem, curve.kept(k))) / optimum)
    assert np.mean(np.array(ratios) <= 1.0 + 1e-9) >= 0.9
    assert max(ratios) <= 1.1


def test_the_bound_is_tight_on_correlated_channels(make_channels):
    problem = rerouting_problem([make_channels(96, seed=4).reading])
    curve = select(problem)
    for k in (8, 24, 48, 72):
        certificate = certify(problem, refine(problem, curve.kept(k)))
        assert certificate.gap <= 0.01
        assert certificate.bound == pytest.approx(lower_bound(problem, k, certificate.potentials))


def test_the_ascent_closes_most_of_what_the_start_leaves():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, 240)) * (rng.random((40, 240)) < 0.05)
    values = rng.normal(size=(1000, 40)) @ mixing + 0.1 * rng.normal(size=(1000, 240))
    problem = rerouting_problem([Reading("w", values.T @ values / 1000, np.eye(240))])
    kept = refine(problem, select(problem).kept(80))
    start, end = certify(problem, kept, iterations=0).gap, certify(problem, kept).gap
    assert start > 1e-3
    assert end < 0.4 * start


def test_potentials_above_the_price_of_dropping_are_capped():
    """Where nothing can be re-routed, the best two of five are the dearest to drop, and the bound says so."""
    problem = SelectionProblem(
        np.full((5, 5), 100.0) * (1.0 - np.eye(5)), np.array([1.0, 5.0, 2.0, 4.0, 3.0])
    )
    assert lower_bound(problem, 2, np.full(5, 50.0)) == pytest.approx(6.0)
    assert certify(problem, np.array([1, 3])).gap == pytest.approx(0.0, abs=1e-12)
    assert certify(problem, np.array([1, 4])).bound == pytest.approx(6.0)


def test_a_bound_that_forgets_one_server_is_caught():
    """The property above has teeth: with k − 1 servers paid instead of k, the "bound" exceeds the optimum."""
    exceeded = 0
    for seed in range(30):
        problem = _random_problem(7, seed, masses=False)
        potentials = certify(problem, refine(problem, select(problem).kept(3))).potentials
        exceeded += lower_bound(problem, 2, potentials) > _optimum(problem, 3) + 1e-9
    assert exceeded >= 10


def test_a_problem_that_misprices_one_route_is_caught(make_channels):
    problem = rerouting_problem([make_channels(6).reading])
    wrong = problem.cost.copy()
    wrong[:, 0] *= 0.5
    lied = SelectionProblem(wrong, problem.drop)
    assert lied.value(np.array([0])) < 0.9 * _value(problem, [0])


@pytest.mark.parametrize("seed", range(6))
def test_the_integer_program_agrees(make_channels, seed):
    problem = rerouting_problem([make_channels(14, seed=seed).reading])
    k = 5
    relaxed, exact = _milp(problem, k, integral=False), _milp(problem, k, integral=True)
    kept = refine(problem, select(problem).kept(k))
    certificate = certify(problem, kept, iterations=300)
    assert exact - 1e-9 <= problem.value(kept) <= 1.05 * exact
    # Lagrangian duality: the bound cannot pass the linear relaxation, and comes close to it.
    assert 0.98 * relaxed <= certificate.bound <= relaxed * (1.0 + 1e-9)


def _milp(problem: SelectionProblem, k: int, integral: bool) -> float:
    """k-medoids with a dustbin: x[j, i] ≤ y[i], Σ_i x[j, i] + z[j] = 1, Σ y = k. Variables x, z, y."""
    n = problem.size
    prices = np.concatenate([problem.cost.ravel(), problem.drop, np.zeros(n)])
    served = np.hstack([np.kron(np.eye(n), np.ones(n)), np.eye(n), np.zeros((n, n))])
    linked = np.hstack([np.eye(n * n), np.zeros((n * n, n)), -np.tile(np.eye(n), (n, 1))])
    opened = np.concatenate([np.zeros(n * n + n), np.ones(n)])[None]
    solved = milp(
        prices,
        constraints=[
            LinearConstraint(served, 1.0, 1.0),
            LinearConstraint(linked, -np.inf, 0.0),
            LinearConstraint(opened, k, k),
        ],
        bounds=Bounds(0.0, 1.0),
        integrality=np.concatenate([np.zeros(n * n + n), np.full(n, int(integral))]),
        options={"mip_rel_gap": 0.0},
    )
    assert solved.success
    return float(solved.fun)


def test_the_coupling_is_the_optimal_semi_relaxed_plan(make_channels):
    channels = make_channels(9, seed=3)
    base = rerouting_problem([channels.reading])
    masses = np.random.default_rng(0).random(9)
    problem = SelectionProblem(base.cost, base.drop, masses)
    kept = np.array([1, 4, 7])
    coupling = couple(problem, kept, [channels.reading], bound=0.25)
    routes = np.column_stack([problem.cost[:, kept], problem.drop])
    # the source marginal is fixed, the target's is free
    marginal = np.kron(np.eye(9), np.ones(4))
    solved = linprog(routes.ravel(), A_eq=marginal, b_eq=masses)
    assert coupling.cost == pytest.approx(solved.fun, rel=1e-9)
    # POT, told what the free marginal turned out to be, finds the same cost
    places = np.append(kept, -1)
    received = np.array([masses[coupling.target == place].sum() for place in places])
    assert ot.emd2(masses, received, routes) == pytest.approx(coupling.cost, rel=1e-9)
    assert coupling.bound == 0.25
    np.testing.assert_array_equal(coupling.kept, kept)
    np.testing.assert_array_equal(coupling.target[kept], kept)
    assert set(coupling.scales) == {"w"}


def test_the_predicted_cost_is_the_damage_where_errors_do_not_mix(make_channels):
    made = make_channels(8, seed=5)
    reading = type(made.reading)("w", made.reading.moment, np.diag(np.diagonal(made.reading.gain)))
    problem = rerouting_problem([reading])
    coupling = couple(problem, select(problem).kept(3), [reading])
    assert damage([reading], coupling.target) == pytest.approx(coupling.cost, rel=1e-9)


def test_dead_channels_go_first_and_duplicates_cost_nothing(make_channels):
    made = make_channels(6, seed=2)
    values = np.concatenate([made.samples, 2.0 * made.samples, np.zeros((len(made.samples), 3))], axis=1)
    reading = type(made.reading)("w", values.T @ values / len(values), np.eye(15))
    problem = rerouting_problem([reading])
    curve = select(problem)
    assert curve.distortion[6] <= 1e-12 * curve.distortion[0]
    assert curve.distortion[5] > 1e-4 * curve.distortion[0]
    assert {channel % 6 for channel in curve.kept(6)} == set(range(6))
    target = couple(problem, curve.kept(6)).target
    np.testing.assert_array_equal(target[12:], -1)


def test_one_channel_and_the_ends_of_the_curve():
    problem = SelectionProblem(np.zeros((1, 1)), np.array([2.0]))
    curve = select(problem)
    np.testing.assert_array_equal(curve.distortion, [2.0, 0.0])
    assert certify(problem, curve.kept(1)).gap == 0.0
    np.testing.assert_array_equal(refine(problem, curve.kept(1)), [0])
    np.testing.assert_array_equal(couple(problem, curve.kept(0)).target, [-1])
    with pytest.raises(DataError, match="certificate: no channel is kept"):
        certify(problem, curve.kept(0))
    with pytest.raises(DataError, match="curve: cannot keep 2 of 1 channels"):
        curve.kept(2)


def test_the_choice_follows_relabeled_channels_and_ignores_the_unit(make_channels):
    problem = rerouting_problem([make_channels(20, seed=7).reading])
    order = np.random.default_rng(1).permutation(20)
    relabeled = SelectionProblem(1e6 * problem.cost[np.ix_(order, order)], 1e6 * problem.drop[order])
    np.testing.assert_array_equal(order[select(relabeled).order], select(problem).order)
    np.testing.assert_allclose(select(relabeled).distortion, 1e6 * select(problem).distortion, rtol=1e-9)


@pytest.mark.parametrize(
    ("cost", "drop", "message"),
    [
        (np.zeros((2, 3)), np.ones(2), r"cost has shape \(2, 3\), expected \(2, 2\)"),
        (np.eye(2), np.ones(2), "the diagonal of cost must be 0"),
        (np.array([[0.0, -1.0], [0.0, 0.0]]), np.ones(2), "cost must be finite and not negative"),
        (np.zeros((2, 2)), np.array([1.0, np.inf]), "drop must be finite and not negative"),
        (np.zeros((0, 0)), np.ones(0), "no channels; a dim needs at least one"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(cost, drop, message):
    with pytest.raises(DataError, match=f"selection problem: {message}"):
        SelectionProblem(cost, drop)


def test_a_layer_of_equal_channels_keeps_the_first_and_pays_only_for_the_last_one():
    """All ties: every route is free, so only the empty set costs anything."""
    problem = SelectionProblem(np.zeros((300, 300)), np.ones(300))
    curve = select(problem)
    np.testing.assert_array_equal(curve.order, np.arange(300))
    np.testing.assert_array_equal(curve.distortion, np.append(300.0, np.zeros(300)))
