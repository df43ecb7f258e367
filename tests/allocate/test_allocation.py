"""The allocation against enumeration, its bounds, and its refusals."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otgraph.allocate.allocation import Allocation, minimize_damage, minimize_time
from otgraph.allocate.cost import Term
from otgraph.allocate.cp_sat import SearchLimits
from otgraph.allocate.greedy import least_damage_start, least_time_start
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem
from otgraph.errors import UsageError

NARROW = 1 + TOLERANCE
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A few dims with unaligned widths, damages in any order, and terms up to the fourth degree."""
    count = draw(st.integers(1, 4))
    choices: list[DimOptions] = []
    for at in range(count):
        widths = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=4)), reverse=True)
        damage = st.sampled_from([0.0, 1e-6, 1e-3, 0.02, 0.5]) | st.floats(0, 1)
        damages = draw(st.lists(damage, min_size=len(widths), max_size=len(widths)))
        choices.append(DimOptions(f"d{at}", tuple(widths), tuple(damages)))
    names = st.lists(st.sampled_from([c.name for c in choices]), max_size=4).map(tuple)
    # down to what a clock can tell; the quotients of the smallest floats there are do not exist
    coefficient = st.integers(0, 10**9).map(lambda units: units / 1e6) | st.integers(0, 10**9).map(float)
    terms = draw(st.lists(st.builds(Term, coefficient, names), min_size=1, max_size=6))
    return Problem(tuple(choices), constant=draw(st.floats(-1, 1e4)), terms=tuple(terms))


def _all(problem: Problem) -> list[tuple[float, float]]:
    """(time, damage) of every choice of widths."""
    levels = itertools.product(*(range(len(c.widths)) for c in problem.dims))
    choices = [problem.choice(each) for each in levels]
    return [(problem.time(each), problem.damage(each)) for each in choices]


def _check(problem: Problem, result: Allocation, resolution: float) -> None:
    assert (result.time, result.damage) == (problem.time(result.choice), problem.damage(result.choice))
    assert result.status == "optimal"
    assert result.bound <= result.objective
    assert result.gap <= 1e-5 or result.objective - result.bound <= resolution


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_damage_is_what_enumeration_finds(problem: Problem, share: float) -> None:
    points = _all(problem)
    low, high = min(t for t, _ in points), problem.time(problem.full())
    budget = low + share * (high - low)
    result = minimize_damage(problem, budget)
    _check(problem, result, 1e-9)
    slack = TOLERANCE * abs(budget) + 1e-9 * abs(high)
    assert result.time <= budget + slack
    best = min(d for t, d in points if t <= budget)
    loose = min(d for t, d in points if t <= budget + 2 * slack)
    assert loose - 1e-7 * loose <= result.damage <= best * (1 + 1e-7)
    assert result.bound <= best


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_time_is_what_enumeration_finds(problem: Problem, share: float) -> None:
    points = _all(problem)
    limit = max(min(d for _, d in points), share * max(d for _, d in points))
    result = minimize_time(problem, limit)
    assert result.damage <= limit * (1 + 2 * TOLERANCE)
    best = min(t for t, d in points if d <= limit)
    loose = min(t for t, d in points if d <= limit * (1 + 2 * TOLERANCE))
    scale = max(abs(problem.time(problem.full())), abs(best))
    _check(problem, result, TOLERANCE * scale)
    assert loose - 1e-6 * scale <= result.time <= best + 1e-6 * scale
    assert result.bound <= best + 1e-9 * scale


@QUICK
@given(problems(), st.floats(0, 1))
def test_the_dual_gives_back_the_primal(problem: Problem, share: float) -> None:
    low, high = problem.time(problem.least()), problem.time(problem.full())
    first = minimize_damage(problem, low + share * (high - low))
    back = minimize_time(problem, first.damage)
    assert back.time <= first.time + 1e-6 * abs(high)
    assert back.damage <= first.damage * NARROW


@QUICK
@given(problems(), st.floats(0, 1))
def test_the_start_is_feasible_and_never_better(problem: Problem, share: float) -> None:
    low, high = problem.time(problem.least()), problem.time(problem.full())
    budget = low + share * (high - low)
    start = least_damage_start(problem, budget)
    assert problem.time(start) <= budget + 1e-9 * abs(high)
    assert minimize_damage(problem, budget).damage <= problem.damage(start)
    limit = problem.damage(start)
    quick = least_time_start(problem, limit)
    assert problem.damage(quick) <= limit * NARROW
    assert minimize_time(problem, limit).time <= problem.time(quick)


def _chain(count: int, power: float = 1.5) -> Problem:
    """Convolutions in a row, like the inside of a network: neighbors share a product."""
    sizes = [(16, 64, 24, 128)[at % 4] for at in range(count)]
    choices: list[DimOptions] = []
    for at, size in enumerate(sizes):
        widths = tuple(range(size, 0, -8))
        damages = tuple((1 + at % 5) * (1 - width / size) ** power for width in widths)
        choices.append(DimOptions(f"d{at}", widths, damages))
    terms = [Term(9.0 * (1 + at % 3), (f"d{at}", f"d{at + 1}")) for at in range(count - 1)]
    return Problem(tuple(choices), constant=1000.0, terms=tuple(terms))


def test_sixty_dims_to_proven_optimality() -> None:
    problem = _chain(60)
    budget = 0.6 * problem.time(problem.full())
    result = minimize_damage(problem, budget)
    assert result.status == "optimal"
    assert result.time <= budget * NARROW
    assert result.damage <= problem.damage(least_damage_start(problem, budget))
    assert result.gap < 1e-5


def test_dense_connections_to_proven_optimality() -> None:
    """Each layer reads all before it: a hundred products."""
    choices = [DimOptions(f"g{at}", (32, 24, 16, 8), (0.0, 0.1 + at / 50, 0.4, 1.0)) for at in range(14)]
    choices += [DimOptions(f"b{at}", (128, 96, 64, 32), (0.0, 0.05, 0.2 + at / 40, 0.9)) for at in range(14)]
    terms = [Term(1.0, (f"g{i}", f"b{j}")) for j in range(14) for i in range(j + 1)]
    assert len(terms) > 100
    problem = Problem(tuple(choices), terms=tuple(terms))
    budget = 0.6 * problem.time(problem.full())
    result = minimize_damage(problem, budget)
    assert (result.status, result.time <= budget * NARROW) == ("optimal", True)


def test_the_same_twice() -> None:
    problem = _chain(20)
    budget = 0.5 * problem.time(problem.full())
    assert minimize_damage(problem, budget) == minimize_damage(problem, budget)


def test_a_search_without_effort_still_answers_and_says_so() -> None:
    problem = _chain(40)
    budget = 0.35 * problem.time(problem.full())
    start = least_damage_start(problem, budget)
    result = minimize_damage(problem, budget, SearchLimits(effort=1e-6))
    assert result.status == "feasible"
    assert result.time <= budget * NARROW
    assert result.damage <= problem.damage(start)
    assert 0 <= result.bound < result.damage
    assert result.gap > 0


def test_what_is_out_of_reach_names_what_is_not() -> None:
    problem = Problem((DimOptions("d", (16, 8), (0.0, 1.0)),), terms=(Term(1.0, ("d",)),), constant=4.0)
    with pytest.raises(UsageError) as error:
        minimize_damage(problem, 10.0)
    assert str(error.value) == (
        "latency 0.5x: out of reach; the smallest reachable with these dims and candidate widths is 0.601x;"
        " ask for that or more, or let more dims be cut"
    )
    assert minimize_damage(problem, 0.601 * 20).choice.widths == {"d": 8}


def test_a_damage_limit_out_of_reach() -> None:
    problem = Problem((DimOptions("d", (16, 8), (0.5, 1.0)),), terms=(Term(1.0, ("d",)),))
    with pytest.raises(UsageError, match=r"max-drop 0\.1: out of reach; .* is 0\.5; ask for 0\.5 or more"):
        minimize_time(problem, 0.1)


def test_no_damage_allowed_takes_what_is_free() -> None:
    choices = (DimOptions("free", (16, 8), (0.0, 0.0)), DimOptions("dear", (16, 8), (0.0, 0.1)))
    problem = Problem(choices, terms=(Term(1.0, ("free", "dear")),))
    assert minimize_time(problem, 0.0).choice.widths == {"free": 8, "dear": 16}


def test_nothing_to_decide() -> None:
    problem = Problem((), terms=(Term(3.0),), constant=1.0)
    assert minimize_damage(problem, 4.0).choice.widths == {}
    assert minimize_time(problem, 0.0).time == 4.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DimOptions("d", (8, 16), (0.0, 0.0)), "d: candidate widths must be positive and descend"),
        (lambda: DimOptions("d", (8,), (0.0, 0.0)), "d: needs one damage per candidate width"),
        (lambda: DimOptions("d", (8,), (-1.0,)), "d: a damage must be finite and not negative"),
        (lambda: Problem((), terms=(Term(1.0, ("d",)),)), "names a dim that has no candidates"),
        (lambda: Problem((), terms=(Term(-1.0),)), "must have a finite coefficient that is not negative"),
        (lambda: Problem((DimOptions("d", (8,), (0.0,)),) * 2), "a dim is named twice"),
    ],
)
def test_bad_problems_are_refused(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]
