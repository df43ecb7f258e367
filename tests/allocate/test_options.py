"""Widths, tables and options together, against enumeration by the definition of an option."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otgraph.allocate import scope
from otgraph.allocate.allocation import Allocation, minimize_damage, minimize_time
from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import Term, TimeTable, TimeTerm
from otgraph.allocate.greedy import least_damage_start, least_time_start
from otgraph.allocate.option import Option, absorbed_by
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem
from otgraph.allocate.walk import Walk
from otgraph.errors import UsageError

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

_NUMBERS = st.integers(0, 10**8).map(lambda units: units / 1e6)
"""Times down to what a clock can tell; the smallest floats there are do not even add up."""


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Nodes in a row over a few dims, tables that nothing orders, polynomials, options over runs of nodes."""
    choices: list[DimOptions] = []
    damage = st.sampled_from([0.0, 1e-6, 0.02, 0.5]) | st.floats(0, 1)
    for at in range(draw(st.integers(1, 4))):
        widths = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=3)), reverse=True)
        damages = draw(st.lists(damage, min_size=len(widths), max_size=len(widths)))
        choices.append(DimOptions(f"d{at}", tuple(widths), tuple(damages)))
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


def _terms(choices: list[DimOptions]) -> st.SearchStrategy[tuple[Term, ...]]:
    names = st.lists(st.sampled_from([c.name for c in choices]), max_size=3).map(tuple)
    return st.lists(st.builds(Term, _NUMBERS, names), max_size=2).map(tuple)


@st.composite
def _times(draw: st.DrawFn, name: str, choices: list[DimOptions]) -> TimeTerm:
    terms = draw(_terms(choices))
    over = draw(st.lists(st.sampled_from(choices), max_size=2, unique_by=lambda c: c.name))
    if not over:
        return TimeTerm(name, terms)
    keys = list(itertools.product(*(c.widths for c in over)))
    value = _NUMBERS.map(lambda number: 100 * number) | st.sampled_from([0.0, 1.0, 1000.0])
    values = draw(st.lists(value, min_size=len(keys), max_size=len(keys)))
    table = TimeTable(tuple(c.name for c in over), dict(zip(keys, values, strict=True)))
    return TimeTerm(name, terms, table)


def _everything(problem: Problem) -> Iterator[tuple[float, float]]:
    """(time, damage) of every choice of widths and options, from the definitions alone."""
    spaces = [tuple(zip(c.widths, c.damages, strict=True)) for c in problem.dims]
    for chosen in _subsets(problem.options):
        gone = {name for option in chosen for name in option.removes}
        free = {name for option in chosen for name in option.absorbs}
        nodes = [node for node in problem.nodes if node.node not in gone]
        nodes += [node for option in chosen for node in option.adds]
        for picked in itertools.product(*spaces):
            pairs = zip(problem.dims, picked, strict=True)
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


def _check(problem: Problem, result: Allocation, resolution: float) -> None:
    assert math.isclose(result.time, problem.time(result.choice))
    assert math.isclose(result.damage, problem.damage(result.choice))
    assert result.status == "optimal"
    assert result.bound <= result.objective
    assert result.gap <= 1e-5 or result.objective - result.bound <= resolution
    chosen = [option for option in problem.options if option.name in result.choice.options]
    assert result.choice.options == tuple(option.name for option in chosen)
    assert tuple(chosen) in list(_subsets(problem.options))
    for choice in problem.dims:
        if any(choice.name in option.absorbs for option in chosen):
            assert result.choice.widths[choice.name] == choice.widths[0]


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_damage_is_what_enumeration_finds(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(t for t, _ in points), max(t for t, _ in points)
    budget = low + share * (high - low)
    result = minimize_damage(problem, budget)
    _check(problem, result, 1e-9)
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
    result = minimize_time(problem, limit)
    assert result.damage <= limit * (1 + 2 * TOLERANCE) + 1e-12
    best = min(t for t, d in points if d <= limit)
    loose = min(t for t, d in points if d <= limit * (1 + 2 * TOLERANCE) + 1e-12)
    scale = max(abs(t) for t, _ in points)
    _check(problem, result, TOLERANCE * scale)
    assert loose - 1e-6 * scale <= result.time <= best + 1e-6 * scale
    assert result.bound <= best + 1e-9 * scale


@QUICK
@given(problems())
def test_the_least_time_of_all(problem: Problem) -> None:
    times = [t for t, _ in _everything(problem)]
    result = minimize_time(problem, math.inf)
    assert result.status == "optimal"
    assert math.isclose(result.time, min(times), rel_tol=1e-6, abs_tol=1e-6 * max(map(abs, times)))


@QUICK
@given(problems(), st.floats(0, 1))
def test_the_start_keeps_what_it_promises(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(t for t, _ in points), max(t for t, _ in points)
    budget = low + share * (high - low)
    start = least_damage_start(problem, budget)
    if problem.time(start) <= budget:
        found = minimize_damage(problem, budget)
        assert found.damage <= problem.damage(start)
    limit = max(d for _, d in points) * share
    quick = least_time_start(problem, limit)
    if problem.damage(quick) <= limit:
        assert minimize_time(problem, limit).time <= problem.time(quick)


@QUICK
@given(problems(), st.data())
def test_a_walk_knows_what_each_move_changes(problem: Problem, data: st.DataObject) -> None:
    walk = Walk(problem)
    for _ in range(3):
        moves = [*itertools.product(range(len(problem.dims)), range(3)), *range(len(problem.options))]
        for move in moves:
            again = copy.deepcopy(walk)
            if isinstance(move, tuple):
                row, level = move
                if level >= len(problem.dims[row].widths) or walk.absorbed[row]:
                    continue
                saved, harm = float(walk.saved_by_dims()[move]), float(walk.harm_of_dims()[move])
                again.move_dim(row, level)
            else:
                saved, harm = float(walk.saved_by_options()[move]), float(walk.harm_of_options()[move])
                again.move_option(move)
            _same(saved, _at(walk, Problem.time) - _at(again, Problem.time), problem)
            _same(harm, _at(again, Problem.damage) - _at(walk, Problem.damage), problem)
            _same(walk.time, _at(walk, Problem.time), problem)
            assert math.isclose(walk.damage, _at(walk, Problem.damage), abs_tol=1e-9)
        if problem.options:
            walk.move_option(data.draw(st.integers(0, len(problem.options) - 1)))
        row = data.draw(st.integers(0, len(problem.dims) - 1))
        walk.move_dim(row, data.draw(st.integers(0, len(problem.dims[row].widths) - 1)))


def _at(walk: Walk, value: Callable[[Problem, Choice], float]) -> float:
    """A value where the walk stands."""
    return value(walk.problem, walk.choice())


def _same(one: float, other: float, problem: Problem) -> None:
    scale = max(abs(problem.constant), 1.0, *(each.highest(problem.candidates) for each in problem.scopes))
    assert abs(one - other) <= 1e-9 * scale


@QUICK
@given(problems(), st.floats(0, 1))
def test_products_and_their_tables_agree(problem: Problem, share: float) -> None:
    points = list(_everything(problem))
    low, high = min(t for t, _ in points), max(t for t, _ in points)
    budget = low + share * (high - low)
    one = minimize_damage(problem, budget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scope, "MOST_ENTRIES", -1)
        other = minimize_damage(replace(problem), budget)
    slack = 2 * TOLERANCE * abs(budget) + 2e-9 * abs(high)
    best = {min(d for t, d in points if t <= at) for at in (budget, budget + slack)}
    assert min(best) * (1 - 1e-7) <= other.damage <= max(best) * (1 + 1e-7) + 1e-12
    assert other.bound <= max(best) + 1e-12
    assert one.status == other.status == "optimal"


def _two_blocks() -> Problem:
    """Two blocks that may go, alone or together, and a merge of one that is slower when narrow."""
    choices = tuple(DimOptions(name, (16, 8), (0.0, 0.3)) for name in ("a", "b"))
    table = {(16,): 10.0, (8,): 6.0}
    nodes = (
        TimeTerm("x", (Term(0.25, ("a",)),), TimeTable(("a",), table)),
        TimeTerm("y", (), TimeTable(("b",), table)),
        TimeTerm("free"),
    )
    options = (
        Option("drop x", 0.5, frozenset({"x"}), (), frozenset({"a"})),
        Option(
            "merge y", 0.1, frozenset({"y"}), (TimeTerm("z", (), TimeTable(("b",), {(16,): 5.0, (8,): 7.0})),)
        ),
        Option("drop y", 0.4, frozenset({"y", "free"}), (), frozenset({"b"})),
        Option("drop both", 0.7, frozenset({"x", "y", "free"}), (), frozenset({"a", "b"})),
        Option("tidy", 0.0, frozenset({"free"})),
    )
    return Problem(choices, nodes, options, constant=4.0)


def test_widths_and_options_are_chosen_together() -> None:
    problem = _two_blocks()
    assert problem.time(problem.full()) == 28.0
    merged = minimize_damage(problem, 23.0)
    assert (merged.choice.options, merged.choice.widths) == (("merge y",), {"a": 16, "b": 16})
    assert (merged.time, merged.damage, merged.gap) == (23.0, 0.1, 0.0)
    narrower = minimize_damage(problem, 17.0)
    assert (narrower.choice.options, narrower.choice.widths) == (("merge y",), {"a": 8, "b": 16})
    nothing = minimize_damage(problem, 4.0)
    assert (nothing.choice.options, nothing.choice.widths) == (("drop both",), {"a": 16, "b": 16})
    assert minimize_damage(problem, 9.0).choice.options == ("drop x", "merge y")
    assert minimize_time(problem, 0.55).choice.options == ("drop x",)
    assert minimize_time(problem, math.inf).time == 4.0
    assert minimize_time(problem, 0.0).time == 28.0


def test_options_in_the_order_of_the_problem_and_the_same_twice() -> None:
    problem = _two_blocks()
    turned = replace(problem, options=problem.options[::-1])
    assert minimize_damage(turned, 9.0).choice.options == ("merge y", "drop x")
    assert minimize_damage(problem, 9.0) == minimize_damage(_two_blocks(), 9.0)


def test_absorbed_dims_have_no_width() -> None:
    problem = _two_blocks()
    assert problem.choice((1, 1), {"drop x"}) == Choice({"a": 16, "b": 8}, ("drop x",))
    assert problem.damage(Choice({"a": 8, "b": 8}, ("drop x",))) == 0.5 + 0.3
    times = [problem.time(Choice({"a": width, "b": 8}, ("drop x",))) for width in (16, 8)]
    assert times == [4.0 + 6.0] * 2


def test_a_choice_names_what_it_changes() -> None:
    problem = _two_blocks()
    assert problem.time(Choice({"a": 8}, ("merge y",))) == 4.0 + 2.0 + 6.0 + 5.0
    assert problem.time(Choice()) == problem.time(problem.full())
    assert problem.damage(Choice({"b": 8})) == 0.3


def test_what_absorbing_saves_can_meet_a_limit() -> None:
    """The dim does damage at any width; only the option, which leaves it out, does less."""
    choice = DimOptions("a", (16, 8), (0.5, 0.9))
    node = TimeTerm("x", (Term(1.0, ("a",)),))
    slow = TimeTerm("new", (Term(100.0),))
    option = Option("swap", 0.2, frozenset({"x"}), (slow,), frozenset({"a"}))
    problem = Problem((choice,), (node,), (option,))
    assert minimize_time(problem, 0.3).choice.options == ("swap",)
    assert minimize_time(problem, 0.5).choice.options == ()
    with pytest.raises(UsageError, match=r"max-drop 0\.1: out of reach; .* is 0\.2; ask for 0\.2 or more"):
        minimize_time(problem, 0.1)


def test_a_narrower_layer_may_be_slower() -> None:
    table = TimeTable(("a",), {(16,): 4.0, (12,): 9.0, (8,): 3.0, (4,): 5.0})
    problem = Problem((DimOptions("a", (16, 12, 8, 4), (0.0, 0.1, 0.2, 0.3)),), (TimeTerm("x", (), table),))
    assert minimize_damage(problem, 3.5).choice.widths == {"a": 8}
    with pytest.raises(UsageError) as error:
        minimize_damage(problem, 2.0)
    assert "the smallest reachable with these dims and candidate widths is 0.751x" in str(error.value)


def test_a_start_that_only_the_tolerance_lets_in() -> None:
    """Nothing that keeps the budget to the letter is as good: the program has no solution, which is proof."""
    table, merged = TimeTable(("b",), {(3,): 2.0, (2,): 0.0}), TimeTable(("a",), {(30,): 0.0, (29,): 1.0})
    choices = (DimOptions("a", (30, 29), (0.0, 0.0)), DimOptions("b", (3, 2), (0.0, 0.02)))
    option = Option("merge", 1e-6, frozenset({"x"}), (TimeTerm("new", (), merged),))
    cubed = (Term(42.0, ("a", "a", "a")),)
    problem = Problem(choices, (TimeTerm("x", (), table),), (option,), terms=cubed)
    result = minimize_damage(problem, 42.0 * 29**3)
    assert (result.damage, result.bound, result.status) == (1e-6, 1e-6, "optimal")


def test_no_limit_is_no_limit() -> None:
    """0.5 + 0.1276… - 0.5 is less than 0.1276…: a limit made of sums would rule the narrow dim out."""
    choices = (DimOptions("a", (1,), (0.5,)), DimOptions("b", (2, 1), (0.0, 0.1276176258648463)))
    node = TimeTerm("x", (), TimeTable(("b",), {(2,): 2.0, (1,): 0.0}))
    option = Option("swap", 0.0, frozenset({"x"}), (TimeTerm("new", (Term(1.0),)),))
    assert minimize_time(Problem(choices, (node,), (option,)), math.inf).time == 0.0


def test_out_of_reach_speaks_of_options() -> None:
    with pytest.raises(UsageError, match=r"with these dims, candidate widths and options is 0\.143x"):
        minimize_damage(_two_blocks(), 3.0)


def _long_chain() -> Problem:
    """Sixty dims in a row with tables, and forty runs of them that may go, many of them overlapping."""
    widths = [tuple(range(size, 0, -8)) for size in (64, 96, 72, 128) * 15]
    dims = tuple(
        DimOptions(f"d{at}", each, tuple(0.01 * (1 + at % 5) * (1 - k / each[0]) ** 1.7 for k in each))
        for at, each in enumerate(widths)
    )
    nodes = tuple(TimeTerm(f"n{at}", (), _conv(widths, at, at + 1)) for at in range(59))
    options: list[Option] = []
    for at in range(40):
        first, size = 7 * at % 53, 2 + at % 4
        added = (TimeTerm(f"new{at}", (), _conv(widths, first, first + size)),) if at % 2 else ()
        gone = range(first, first + size)
        inner = frozenset(f"d{each}" for each in gone[1:])
        options.append(Option(f"o{at}", 0.01 * size, frozenset(f"n{each}" for each in gone), added, inner))
    return Problem(dims, nodes, tuple(options))


def _conv(widths: list[tuple[int, ...]], a: int, b: int) -> TimeTable:
    """Steps of 32 going in and of 16 coming out, as engines have them."""
    cost = {(i, o): 50.0 + -(-i // 32) * -(-o // 16) * 8 + 0.1 * i * o for i in widths[a] for o in widths[b]}
    return TimeTable((f"d{a}", f"d{b}"), cost)


@pytest.mark.slow
def test_sixty_dims_and_forty_options() -> None:
    problem = _long_chain()
    budget = 0.5 * problem.time(problem.full())
    start = least_damage_start(problem, budget)
    result = minimize_damage(problem, budget)
    assert result.gap <= 0.01
    assert result.choice.options
    assert result.time <= budget * (1 + TOLERANCE)
    assert result.damage <= problem.damage(start)
    without = minimize_damage(replace(problem, options=()), budget)
    assert result.damage < without.bound


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Option("o", -1.0, frozenset({"x"})), "o: a damage must be finite and not negative"),
        (lambda: Option("o", math.nan, frozenset({"x"})), "o: a damage must be finite and not negative"),
        (lambda: Option("o", 1.0, frozenset()), "o: removes no node"),
        (
            lambda: Option(
                "o", 1.0, frozenset({"x"}), (TimeTerm("n", (Term(1.0, ("a",)),)),), frozenset("a")
            ),
            "o: its new nodes read a, which it absorbs",
        ),
        (lambda: TimeTable((), {(): 1.0}), "needs one dim, or two that differ"),
        (lambda: TimeTable(("a", "a"), {}), "needs one dim, or two that differ"),
        (lambda: TimeTable(("a", "b"), {(1,): 1.0}), "needs one width per dim in each of its keys"),
        (lambda: TimeTable(("a",), {(1,): -1.0}), r"-1\.0 at \(1,\) is not a time"),
        (lambda: TimeTable(("a",), {(1,): math.inf}), r"inf at \(1,\) is not a time"),
        (lambda: _with(options=_two_blocks().options * 2), "an? option is named twice: drop x"),
        (lambda: _with(nodes=_two_blocks().nodes * 2), "a node is named twice: x"),
        (lambda: _with(options=(Option("o", 1.0, frozenset({"w"})),)), "o: removes w, which is not among"),
        (
            lambda: _with(options=(Option("o", 1.0, frozenset({"x"}), absorbs=frozenset({"c"})),)),
            "o: absorbs c, which has no candidates",
        ),
        (
            lambda: _with(options=(Option("o", 1.0, frozenset({"x"}), absorbs=frozenset({"b"})),)),
            "o: absorbs b, which y still reads",
        ),
        (
            lambda: _with(terms=(Term(1.0, ("a",)),)),
            "drop x: absorbs a, which a term of the problem still reads",
        ),
        (
            lambda: _with(nodes=(TimeTerm("x", (), TimeTable(("a",), {(16,): 1.0})),), options=()),
            r"x: its table over \('a',\) lacks \(8,\)",
        ),
        (
            lambda: _with(nodes=(TimeTerm("x", (Term(1.0, ("c",)),)),), options=()),
            "the time of x names a dim that has no candidates: c",
        ),
        (lambda: _two_blocks().time(Choice({}, ("nothing",))), "nothing: no option of the problem"),
        (lambda: _two_blocks().damage(Choice({}, ("tidy", "drop y"))), "drop y and tidy exclude each other"),
        (lambda: _two_blocks().damage(Choice({"a": 9})), "a: 9 is not among its candidate widths"),
        (lambda: _two_blocks().time(Choice({"c": 9})), "c: no dim of the problem"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def _with(**parts: Any) -> Problem:
    return replace(_two_blocks(), **parts)


def test_what_excludes_what() -> None:
    reads = (TimeTerm("n", (Term(1.0, ("a",)),)),)
    x, y = frozenset({"x"}), frozenset({"y"})
    a = frozenset({"a"})
    absorbing = Option("o", 1.0, x, (), a)
    assert absorbing.excludes(Option("p", 1.0, x | y))
    assert absorbing.excludes(Option("p", 1.0, y, (), a))
    assert absorbing.excludes(Option("p", 1.0, y, reads))
    assert Option("p", 1.0, y, reads).excludes(absorbing)
    assert not absorbing.excludes(Option("p", 1.0, y, (), frozenset({"b"})))


def test_what_an_option_may_absorb() -> None:
    problem = _two_blocks()
    assert absorbed_by({"x", "free"}, problem.nodes) == {"a"}
    assert absorbed_by({"x", "y"}, problem.nodes, (Term(1.0, ("a",)),)) == {"b"}
    assert absorbed_by({"free"}, problem.nodes) == set()
