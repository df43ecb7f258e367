"""Widths, tables and options together, against enumeration by the definition of an option."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otgraph.errors import UsageError
from otgraph.plan.allocation import Allocation, minimise_damage, minimise_time
from otgraph.plan.incumbent import least_damage_start, least_time_start
from otgraph.plan.option import Option, absorbed_by
from otgraph.plan.problem import TOLERANCE, Choice, Problem
from otgraph.plan.terms import NodeTime, Term, TimeTable

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Nodes in a row over a few dims, tables that nothing orders, polynomials, options over runs of nodes."""
    choices: list[Choice] = []
    damage = st.sampled_from([0.0, 1e-6, 0.02, 0.5]) | st.floats(0, 1)
    for at in range(draw(st.integers(1, 4))):
        widths = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=3)), reverse=True)
        damages = draw(st.lists(damage, min_size=len(widths), max_size=len(widths)))
        choices.append(Choice(f"d{at}", tuple(widths), tuple(damages)))
    nodes = tuple(draw(_times(f"n{at}", choices)) for at in range(draw(st.integers(1, 5))))
    shared = draw(st.lists(_terms([choices[0]]), max_size=1))
    terms = tuple(term for each in shared for term in each)
    options: list[Option] = []
    for at in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(nodes) - 1))
        last = draw(st.integers(first, len(nodes) - 1))
        removes = frozenset(node.node for node in nodes[first : last + 1])
        absorbs = absorbed_by(removes, nodes, terms) & draw(
            st.sets(st.sampled_from([c.name for c in choices]))
        )
        left = [choice for choice in choices if choice.name not in absorbs]
        adds = [draw(_times(f"new{at}", left))] if left and draw(st.booleans()) else []
        options.append(Option(f"o{at}", draw(damage), removes, tuple(adds), absorbs))
    return Problem(tuple(choices), nodes, tuple(options), draw(st.floats(-1, 1e3)), terms)


def _terms(choices: list[Choice]) -> st.SearchStrategy[tuple[Term, ...]]:
    names = st.lists(st.sampled_from([c.name for c in choices]), max_size=3).map(tuple)
    return st.lists(st.builds(Term, st.floats(0, 100), names), max_size=2).map(tuple)


@st.composite
def _times(draw: st.DrawFn, name: str, choices: list[Choice]) -> NodeTime:
    terms = draw(_terms(choices))
    over = draw(st.lists(st.sampled_from(choices), max_size=2, unique_by=lambda c: c.name))
    if not over:
        return NodeTime(name, terms)
    keys = list(itertools.product(*(c.widths for c in over)))
    value = st.floats(0, 1e4) | st.sampled_from([0.0, 1.0, 1000.0])
    values = draw(st.lists(value, min_size=len(keys), max_size=len(keys)))
    table = TimeTable(tuple(c.name for c in over), dict(zip(keys, values, strict=True)))
    return NodeTime(name, terms, table)


def _everything(problem: Problem) -> Iterator[tuple[float, float]]:
    """(time, damage) of every choice of widths and options, from the definitions alone."""
    spaces = [tuple(zip(c.widths, c.damages, strict=True)) for c in problem.choices]
    for chosen in _subsets(problem.options):
        gone = {name for option in chosen for name in option.removes}
        free = {name for option in chosen for name in option.absorbs}
        nodes = [node for node in problem.nodes if node.node not in gone]
        nodes += [node for option in chosen for node in option.adds]
        for picked in itertools.product(*spaces):
            pairs = zip(problem.choices, picked, strict=True)
            at = {c.name: pick for c, pick in pairs}
            widths = {name: width for name, (width, _) in at.items()}
            time = problem.constant + sum(term.at(widths) for term in problem.terms)
            time += sum(node.at(widths) for node in nodes)
            harm = sum(damage for name, (_, damage) in at.items() if name not in free)
            yield time, harm + sum(option.damage for option in chosen)


def _subsets(options: tuple[Option, ...]) -> Iterator[tuple[Option, ...]]:
    for size in range(len(options) + 1):
        for chosen in itertools.combinations(options, size):
            nodes = [name for option in chosen for name in option.removes]
            dims = [name for option in chosen for name in option.absorbs]
            read = {name for option in chosen for node in option.adds for name in node.dims}
            if len(set(nodes)) == len(nodes) and len(set(dims)) == len(dims) and not read & set(dims):
                yield chosen


def _check(problem: Problem, result: Allocation) -> None:
    levels = tuple(c.widths.index(result.widths[c.name]) for c in problem.choices)
    assert math.isclose(result.time, problem.time(levels, result.options))
    assert math.isclose(result.damage, problem.damage(levels, result.options))
    assert result.status == "optimal"
    assert result.bound <= result.objective
    assert result.gap <= 1e-5 or result.objective - result.bound <= 1e-8 * max(1.0, abs(result.objective))
    chosen = [option for option in problem.options if option.name in result.options]
    assert result.options == tuple(option.name for option in chosen)
    assert tuple(chosen) in list(_subsets(problem.options))
    for choice in problem.choices:
        if any(choice.name in option.absorbs for option in chosen):
            assert result.widths[choice.name] == choice.widths[0]


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_damage_is_what_enumeration_finds(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(t for t, _ in points), max(t for t, _ in points)
    budget = low + share * (high - low)
    result = minimise_damage(problem, budget)
    _check(problem, result)
    slack = TOLERANCE * abs(budget) + 1e-9 * abs(high)
    assert result.time <= budget + slack
    best = min(d for t, d in points if t <= budget)
    loose = min(d for t, d in points if t <= budget + 2 * slack)
    assert loose - 1e-7 * loose <= result.damage <= best + 1e-7 * best + 1e-12
    assert result.bound <= best + 1e-12


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_time_is_what_enumeration_finds(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(d for _, d in points), max(d for _, d in points)
    limit = low + share * (high - low)
    result = minimise_time(problem, limit)
    _check(problem, result)
    assert result.damage <= limit * (1 + 2 * TOLERANCE) + 1e-12
    best = min(t for t, d in points if d <= limit)
    loose = min(t for t, d in points if d <= limit * (1 + 2 * TOLERANCE) + 1e-12)
    scale = max(abs(t) for t, _ in points)
    assert loose - 1e-6 * scale <= result.time <= best + 1e-6 * scale
    assert result.bound <= best + 1e-9 * scale


@QUICK
@given(problems())
def test_the_least_time_of_all(problem: Problem) -> None:
    times = [t for t, _ in _everything(problem)]
    result = minimise_time(problem, math.inf)
    assert result.status == "optimal"
    assert math.isclose(result.time, min(times), rel_tol=1e-6, abs_tol=1e-6 * max(map(abs, times)))


@QUICK
@given(problems(), st.floats(0, 1))
def test_the_start_keeps_what_it_promises(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(t for t, _ in points), max(t for t, _ in points)
    budget = low + share * (high - low)
    start = least_damage_start(problem, budget)
    if problem.time(start.levels, start.options) <= budget:
        found = minimise_damage(problem, budget)
        assert found.damage <= problem.damage(start.levels, start.options)
    limit = max(d for _, d in points) * share
    quick = least_time_start(problem, limit)
    if problem.damage(quick.levels, quick.options) <= limit:
        assert minimise_time(problem, limit).time <= problem.time(quick.levels, quick.options)
