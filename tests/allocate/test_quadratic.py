"""Damages that candidates do to each other's, against enumeration; bounds that must never be above it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.allocate.allocation import minimise_damage
from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import NodeTime, Term
from otgraph.allocate.interaction import Interaction, Key
from otgraph.allocate.option import Option
from otgraph.allocate.problem import DimOptions, Problem
from otgraph.allocate.quadratic import Tangent
from otgraph.errors import UsageError

SAMPLES = 6


def problem_from(seed: int, weight: float) -> Problem:
    """Three dims and three options, vectors that partly point the same way and partly against each other."""
    random = np.random.default_rng(seed)
    common = random.normal(size=SAMPLES)
    vectors: dict[Key, np.ndarray] = {}
    dims: list[DimOptions] = []
    nodes: list[NodeTime] = []
    for number in range(3):
        widths, name = (8, 6, 4, 2)[: int(random.integers(2, 5))], f"d{number}"
        direction = random.normal(size=SAMPLES) + random.choice([-1, 0, 1]) * common
        damages = [0.0]
        for level, k in enumerate(widths[1:], 1):
            vectors[name, k] = level * 0.1 * direction
            damages.append(float(vectors[name, k] @ vectors[name, k]) * float(random.choice([1.0, 1.3])))
        dims.append(DimOptions(name, widths, tuple(damages)))
        nodes.append(NodeTime(f"n{number}", (Term(float(random.uniform(0.5, 2)), (name,)),)))
    options: list[Option] = []
    for number in range(3):
        name = f"o{number}"
        vectors[name] = 0.2 * (random.normal(size=SAMPLES) + random.choice([-1, 0, 1]) * common)
        removes = frozenset(
            {f"n{number}"} | ({f"n{number - 1}"} if random.uniform() < 0.3 and number else set())
        )
        absorbs = frozenset({f"d{number}"} if random.uniform() < 0.5 else set())
        options.append(Option(name, float(vectors[name] @ vectors[name]), frozenset(removes), (), absorbs))
    return Problem(
        tuple(dims), tuple(nodes), tuple(options), constant=1.0, interaction=Interaction(vectors, weight)
    )


def every_choice(problem: Problem) -> list[Choice]:
    found: list[Choice] = []
    for count in range(len(problem.options) + 1):
        for taken in itertools.combinations([option.name for option in problem.options], count):
            try:
                chosen = problem.chosen(taken)
            except ValueError:
                continue
            absorbed = frozenset[str]().union(*(option.absorbs for option in chosen))
            axes = [dim.widths[:1] if dim.name in absorbed else dim.widths for dim in problem.dims]
            for widths in itertools.product(*axes):
                pairs = zip(problem.dims, widths, strict=True)
                found.append(Choice({dim.name: k for dim, k in pairs}, taken))
    return found


@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.3, 0.95))
@settings(max_examples=40, deadline=None)
def test_it_is_optimal_or_says_by_how_much_it_may_not_be(seed: int, weight: float, share: float) -> None:
    problem = problem_from(seed, weight)
    choices = every_choice(problem)
    budget = share * problem.time(problem.full())
    fits = [problem.damage(choice) for choice in choices if problem.time(choice) <= budget * (1 + 1e-9)]
    if not fits:
        with pytest.raises(UsageError, match="out of reach"):
            minimise_damage(problem, budget)
        return
    found = minimise_damage(problem, budget)
    assert problem.time(found.choice) <= budget * (1 + 1e-5)
    assert found.damage == pytest.approx(problem.damage(found.choice))
    assert found.bound <= min(fits) * (1 + 1e-6) + 1e-12
    plain = minimise_damage(replace(problem, interaction=None), budget)
    assert found.damage <= problem.damage(plain.choice) * (1 + 1e-9) + 1e-12  # never worse than without
    assert (
        found.gap >= (found.damage - min(fits)) / max(found.damage, 1e-12) - 1e-6
    )  # and it says by how much


def test_local_search_finds_most_of_it() -> None:
    """Over many small problems, the damage found against the least there is, and that of plain sums."""
    ours, least, plain = [], [], []
    for seed in range(25):
        problem = problem_from(seed, 1.0)
        budget = 0.7 * problem.time(problem.full())
        fits = [problem.damage(c) for c in every_choice(problem) if problem.time(c) <= budget * (1 + 1e-9)]
        ours.append(minimise_damage(problem, budget).damage)
        sums = minimise_damage(replace(problem, interaction=None), budget).choice
        plain.append(problem.damage(sums))
        least.append(min(fits))
    assert sum(ours) <= 1.1 * sum(least) and sum(ours) < sum(plain)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_a_tangent_is_below_the_damage_everywhere_and_meets_it_where_it_is_taken(
    seed: int, weight: float
) -> None:
    problem = problem_from(seed, weight)
    choices = every_choice(problem)
    at = choices[seed % len(choices)]
    tangent = Tangent.at(problem, at)
    plain, shift = tangent.linear()
    for choice in choices:
        below = plain.damage(choice) + shift
        assert below <= problem.damage(choice) + 1e-9
    between = tangent.toward(choices[-1], 0.5)
    plain, shift = between.linear()
    assert all(plain.damage(choice) + shift <= problem.damage(choice) + 1e-9 for choice in choices)


def test_a_bound_that_is_too_high_would_be_seen() -> None:
    """The check above catches a tangent whose constant is off by a little."""
    problem = problem_from(3, 1.0)
    at = every_choice(problem)[5]
    plain, shift = Tangent.at(problem, at).linear()
    off = shift + 1e-3
    assert any(plain.damage(c) + off > problem.damage(c) + 1e-9 for c in every_choice(problem))


def test_effects_that_cancel_are_taken_together() -> None:
    v = np.ones(4) / 2
    vectors: dict[Key, np.ndarray] = {("a", 1): v, ("b", 1): -v, ("c", 1): 0.9 * v}
    dims = tuple(DimOptions(n, (2, 1), (0.0, d)) for n, d in (("a", 1.0), ("b", 1.0), ("c", 0.81)))
    nodes = tuple(NodeTime(n, (Term(1.0, (n,)),)) for n in "abc")
    problem = Problem(dims, nodes, interaction=Interaction(vectors, 1.0))
    found = minimise_damage(problem, 4.0)
    assert found.choice.widths == {"a": 1, "b": 1, "c": 2}
    assert found.damage == pytest.approx(0.0, abs=1e-12)
    alone = minimise_damage(Problem(dims, nodes), 4.0)
    assert alone.damage == pytest.approx(1.81)


def test_without_weight_nothing_interacts() -> None:
    problem = problem_from(1, 0.0)
    plain = Problem(problem.dims, problem.nodes, problem.options, problem.constant)
    budget = 0.6 * problem.time(problem.full())
    assert minimise_damage(problem, budget).damage == pytest.approx(minimise_damage(plain, budget).damage)


def test_the_same_problem_gives_the_same_choice() -> None:
    problem = problem_from(7, 1.0)
    budget = 0.6 * problem.time(problem.full())
    assert minimise_damage(problem, budget) == minimise_damage(problem, budget)


def test_a_vector_must_fit() -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Interaction({}, 1.5)
    with pytest.raises(ValueError, match="one length"):
        Interaction({"a": np.zeros(2), "b": np.zeros(3)}, 0.5)
    with pytest.raises(ValueError, match="not finite"):
        Interaction({"a": np.array([np.nan])}, 0.5)
