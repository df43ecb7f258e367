"""The relaxation: its bound, what it rules out, and what its dual values prove whatever GLOP says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import Term, TimeTable, TimeTerm
from otgraph.allocate.option import Option
from otgraph.allocate.prices import Prices
from otgraph.allocate.problem import Caps, DimOptions, Problem
from otgraph.allocate.relaxation import Relaxation

QUICK = settings(max_examples=60, deadline=None)


def _problem(seed: int) -> tuple[Problem, Prices]:
    """Three dims in a row with options over them, and prices of any sign."""
    random = np.random.default_rng(seed)
    widths = [tuple(sorted(random.choice(20, 3, replace=False) + 1)[::-1]) for _ in range(3)]
    widths = [tuple(int(width) for width in each) for each in widths]
    dims = tuple(DimOptions(f"d{at}", each, (0.0, 0.1, 0.2)) for at, each in enumerate(widths))
    nodes = [TimeTerm(f"n{at}", (Term(float(random.integers(1, 9)), (f"d{at}",)),)) for at in range(3)]
    for at in range(2):
        values = {key: float(random.integers(0, 200)) for key in itertools.product(*widths[at : at + 2])}
        nodes.append(TimeTerm(f"m{at}", (), TimeTable((f"d{at}", f"d{at + 1}"), values)))
    triple = (Term(0.01, ("d0", "d1", "d2")),) if random.uniform() < 0.3 else ()
    free = frozenset[str]() if triple else frozenset({"d0"})
    options = (
        Option("first", 0.2, frozenset({"n0", "m0"}), (TimeTerm("x", (Term(2.0, ("d1",)),)),), free),
        Option("middle", 0.2, frozenset({"n1", "m0", "m1"})),
        Option("last", 0.2, frozenset({"n2"})),
    )
    signs = random.uniform(-0.3, 1, (3, 3))
    prices = Prices(tuple(map(tuple, signs.tolist())), tuple(random.uniform(-0.3, 1, 3).tolist()), 0.5)
    return Problem(dims, tuple(nodes), options, 3.0, triple), prices


def _choices(problem: Problem) -> list[Choice]:
    sets = [(), ("first",), ("middle",), ("last",), ("first", "last"), ("middle", "last")]
    levels = list(itertools.product(range(3), repeat=3))
    return [problem.choice(each, names) for names in sets for each in levels]


@QUICK
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_the_bound_is_one_and_nothing_good_is_ruled_out(seed: int, share: float, slack: float) -> None:
    problem, prices = _problem(seed)
    choices = _choices(problem)
    times = [problem.time(choice) for choice in choices]
    caps = Caps(min(times) + share * (max(times) - min(times)))
    relaxation = Relaxation(problem, caps)
    relaxed = relaxation.minimize(relaxation.damage(prices))
    assert relaxed is not None
    fits = [choice for choice in choices if problem.within(choice, caps)]
    damages = [problem.priced(choice, prices) for choice in fits]
    assert relaxed.bound <= min(damages) + 1e-12
    start = fits[seed % len(fits)]
    kept = relaxation.kept(relaxed, slack, start)
    for choice, damage in zip(fits, damages, strict=True):
        if choice == start or damage < relaxed.bound + slack - 1e-9:
            taken = {problem.position[name] for name in choice.options}
            assert taken <= kept.options
            for dim, level, levels in zip(problem.dims, problem.levels(choice), kept.levels, strict=True):
                assert level in levels or taken & problem.absorbers[dim.name]


@QUICK
@given(st.integers(0, 10_000))
def test_any_dual_values_prove_a_bound(seed: int) -> None:
    """Also those that no solver would come up with."""
    problem, prices = _problem(seed)
    choices = _choices(problem)
    caps = Caps(float(np.median([problem.time(choice) for choice in choices])))
    relaxation = Relaxation(problem, caps)
    form = relaxation.damage(prices)
    assert relaxation.minimize(form) is not None and relaxation.solver is not None
    least = min(problem.priced(choice, prices) for choice in choices if problem.within(choice, caps))
    random = np.random.default_rng(seed)
    for _ in range(5):
        duals = random.normal(size=len(relaxation.rows.low))
        bound, _ = relaxation.solver.proved(form.coefficients, duals)
        assert bound + form.constant <= least


def test_what_is_held_can_be_released() -> None:
    problem, prices = _problem(1)
    relaxation = Relaxation(problem)
    before = relaxation.minimize(relaxation.time)
    row = relaxation.hold(relaxation.damage(problem.prices), 0.0)
    held = relaxation.minimize(relaxation.time)
    relaxation.release(row)
    after = relaxation.minimize(relaxation.time)
    assert before is not None and held is not None and after is not None
    assert held.bound > before.bound + 1.0
    assert math.isclose(after.bound, before.bound, rel_tol=1e-9)
    assert relaxation.minimize(relaxation.damage(prices)) is not None


def test_what_cannot_be_met_has_no_solution() -> None:
    problem, prices = _problem(2)
    relaxation = Relaxation(problem, Caps(0.0))
    assert relaxation.minimize(relaxation.damage(prices)) is None
    with pytest.raises(ValueError, match="does not say how its nodes read each other"):
        Relaxation(problem, Caps(layers=3))
