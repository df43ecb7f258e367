"""Damages that interact: the definition, moves, tangents, and allocations against enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otgraph.allocate.allocation import Allocation, minimize_damage, minimize_time
from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import Term, TimeTable, TimeTerm
from otgraph.allocate.cp_sat import SearchLimits
from otgraph.allocate.interaction import FloatArray, Interaction, Key
from otgraph.allocate.option import Option
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem
from otgraph.allocate.tangents import Tangents
from otgraph.allocate.walk import Walk
from otgraph.errors import UsageError

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Problems of all sizes that can be enumerated."""
    sizes = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 6))
    return _built(draw(st.integers(0, 2**32 - 1)), *sizes, draw(st.sampled_from([0.0, 0.3, 1.0])))


def _built(seed: int, count: int, taken: int, samples: int, weight: float) -> Problem:
    """A chain of ``count`` dims and nodes, ``taken`` options over runs of it, and effects that add up or undo
    each other."""
    random = np.random.default_rng(seed)
    widths = [
        tuple(sorted(random.choice(np.arange(1, 20), 3, replace=False).tolist())[::-1]) for _ in range(count)
    ]
    vectors: dict[Key, FloatArray] = {}
    common = random.standard_normal(samples)
    dims = [_dim(f"d{at}", each, vectors, random, common) for at, each in enumerate(widths)]
    nodes = [TimeTerm(f"n{at}", (Term(float(random.integers(1, 9)), (f"d{at}",)),)) for at in range(count)]
    for at in range(count - 1):
        keys = list(itertools.product(widths[at], widths[at + 1]))
        values = {key: float(key[0] * key[1] + random.integers(0, 40)) for key in keys}
        nodes.append(TimeTerm(f"m{at}", (), TimeTable((f"d{at}", f"d{at + 1}"), values)))
    options: list[Option] = []
    for at in range(taken):
        first = int(random.integers(0, count))
        last = int(random.integers(first, min(first + 2, count)))
        inner = range(first, last + 1)
        gone = {f"n{each}" for each in inner} | {f"m{each}" for each in range(first - 1, last + 1)}
        vector = _scale(random, common, samples)
        damage = float(vector @ vector)
        vectors[f"o{at}"] = vector
        added = (TimeTerm(f"new{at}", (Term(float(random.integers(0, 30))),)),)
        absorbed = frozenset(f"d{each}" for each in inner)
        options.append(Option(f"o{at}", damage, frozenset(gone & {n.node for n in nodes}), added, absorbed))
    some = {key: vector for key, vector in vectors.items() if random.random() < 0.9}
    interaction = Interaction(some, weight)
    return Problem(tuple(dims), tuple(nodes), tuple(options), constant=5.0, interaction=interaction)


def _dim(
    name: str,
    widths: tuple[int, ...],
    vectors: dict[Key, FloatArray],
    random: np.random.Generator,
    common: FloatArray,
) -> DimOptions:
    damages = [float(random.choice([0.0, 0.01]))]
    for width in widths[1:]:
        vectors[name, width] = _scale(random, common, len(common))
        own = float(vectors[name, width] @ vectors[name, width])
        damages.append(own * float(random.choice([1.0, 1.5])))
    return DimOptions(name, widths, tuple(damages))


def _scale(random: np.random.Generator, common: FloatArray, samples: int) -> FloatArray:
    mixed = float(random.choice([-1, 1])) * common + random.standard_normal(samples)
    return mixed * float(random.choice([0.0, 0.1, 0.5]))


def _choices(problem: Problem) -> Iterator[Choice]:
    """Every choice there is."""
    names = [option.name for option in problem.options]
    levels = list(itertools.product(*(range(len(dim.widths)) for dim in problem.dims)))
    for size in range(len(names) + 1):
        for chosen in itertools.combinations(names, size):
            try:
                problem.chosen(chosen)
            except ValueError:
                continue
            yield from (problem.choice(each, chosen) for each in levels)


def _damage(problem: Problem, choice: Choice) -> float:
    """The damage by its definition."""
    interaction = problem.interaction
    assert interaction is not None
    chosen = [option for option in problem.options if option.name in choice.options]
    free = {name for option in chosen for name in option.absorbs}
    parts: list[Key] = [option.name for option in chosen]
    alone = sum(option.damage for option in chosen)
    for dim in problem.dims:
        if dim.name not in free:
            parts.append((dim.name, choice.widths[dim.name]))
            alone += dim.damages[dim.widths.index(choice.widths[dim.name])]
    vectors = [interaction.vectors[part] for part in parts if part in interaction.vectors]
    products = sum(float(a @ b) for a, b in itertools.permutations(vectors, 2))
    return alone + interaction.weight * products


def check_bound(result: Allocation, optimum: float, scale: float) -> None:
    """A bound may be loose and an objective not the best, but neither may lie."""
    assert result.bound <= optimum + 1e-9 * scale, "the bound is above the optimum"
    assert result.objective >= optimum - 1e-6 * scale, "the objective is below the optimum"
    assert result.bound <= result.objective
    if result.status == "optimal":
        assert result.objective - result.bound <= 1e-5 * scale, "called optimal without proof"


def test_a_wrong_bound_is_noticed() -> None:
    right = Allocation(Choice(), 1.0, 2.0, 2.0, 1.5, "feasible")
    check_bound(right, 1.8, 2.0)
    for wrong in (
        replace(right, bound=1.9),
        replace(right, objective=1.7),
        replace(right, status="optimal"),
        replace(right, bound=-math.inf, status="optimal"),
        replace(right, bound=2.1, objective=2.0),
    ):
        with pytest.raises(AssertionError):
            check_bound(wrong, 1.8, 2.0)


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_damage_against_enumeration(problem: Problem, share: float) -> None:
    choices = list(_choices(problem))
    times = [problem.time(choice) for choice in choices]
    budget = min(times) + share * (max(times) - min(times))
    damages = [_damage(problem, c) for c, t in zip(choices, times, strict=True) if t <= budget * (1 + 1e-9)]
    result = minimize_damage(problem, budget)
    assert result.time == problem.time(result.choice) <= budget * (1 + 2 * TOLERANCE)
    assert math.isclose(result.damage, _damage(problem, result.choice), abs_tol=1e-12)
    check_bound(result, max(min(damages), 0.0), max(damages) + 1e-12)
    plain = minimize_damage(replace(problem, interaction=None), budget)
    assert result.damage <= _damage(problem, plain.choice) * (1 + 1e-9) + 1e-12


def test_the_search_finds_nearly_all_of_it() -> None:
    """Over many small problems, the damage found against the least there is, and that of plain sums."""
    ours, least, plain = 0.0, 0.0, 0.0
    for seed in range(30):
        problem = _built(seed, 4, 3, 6, 1.0)
        choices = list(_choices(problem))
        times = [problem.time(choice) for choice in choices]
        budget = min(times) + 0.5 * (max(times) - min(times))
        least += min(_damage(problem, c) for c, t in zip(choices, times, strict=True) if t <= budget)
        ours += minimize_damage(problem, budget).damage
        plain += problem.damage(minimize_damage(replace(problem, interaction=None), budget).choice)
    assert ours <= 1.02 * least
    assert ours < 0.9 * plain


@QUICK
@given(problems(), st.floats(0, 1))
def test_least_time_against_enumeration(problem: Problem, share: float) -> None:
    choices = list(_choices(problem))
    damages = [max(_damage(problem, choice), 0.0) for choice in choices]
    limit = min(damages) + share * (max(damages) - min(damages))
    times = [
        problem.time(c) for c, d in zip(choices, damages, strict=True) if d <= limit * (1 + 1e-7) + 1e-15
    ]
    try:
        result = minimize_time(problem, limit)
    except UsageError:
        assert share < 0.01  # the least damage of all is searched for, not proven
        return
    assert result.damage <= limit * (1 + 2 * TOLERANCE) + 1e-12
    check_bound(result, min(times), max(times))


@QUICK
@given(problems(), st.data())
def test_a_walk_knows_what_each_move_changes(problem: Problem, data: st.DataObject) -> None:
    walk = Walk(problem, effects=problem.effects).at_choice(
        data.draw(st.sampled_from(list(_choices(problem))))
    )
    here, saved, harm = walk.choice(), walk.saved_by_dims(), walk.harm_of_dims()
    assert math.isclose(walk.damage, max(_damage(problem, here), 0.0), abs_tol=1e-9)
    moves = [(row, at) for row, dim in enumerate(problem.dims) for at in range(len(dim.widths))]
    moves = [move for move in moves if not walk.absorbed[move[0]]]
    for move in moves:
        other = walk.at_choice(here)
        other.move_dim(*move)
        assert math.isclose(
            harm[move], _damage(problem, other.choice()) - _damage(problem, here), abs_tol=1e-9
        )
    for at in range(len(problem.options)):
        other = walk.at_choice(here)
        other.move_option(at)
        change = _damage(problem, other.choice()) - _damage(problem, here)
        assert math.isclose(walk.harm_of_options()[at], change, abs_tol=1e-9)
    cross, most = walk.cross_harm(), walk.widths.shape[1]
    for one, two in itertools.combinations(moves, 2):
        if one[0] != two[0]:
            other = walk.at_choice(here)
            other.move_dim(*one)
            other.move_dim(*two)
            at = one[0] * most + one[1], two[0] * most + two[1]
            change = harm[one] + harm[two] + (0.0 if cross is None else cross[at])
            assert math.isclose(
                change, _damage(problem, other.choice()) - _damage(problem, here), abs_tol=1e-9
            )
            faster = walk.time - problem.time(other.choice())
            assert math.isclose(saved[one] + saved[two] + walk.cross_saved()[at], faster, abs_tol=1e-6)


@QUICK
@given(problems(), st.data())
def test_tangents_lie_below_and_touch(problem: Problem, data: st.DataObject) -> None:
    if problem.effects is None:
        return
    tangents, choices = Tangents(problem, problem.effects), list(_choices(problem))
    here = Walk(problem, effects=problem.effects).at_choice(data.draw(st.sampled_from(choices)))
    touching, around = tangents.at(here.sum(problem.effects)), tangents.around(here)
    there = tangents.at(np.random.default_rng(0).standard_normal(len(here.sum(problem.effects))))
    for choice in choices:
        damage = _damage(problem, choice)
        assert problem.priced(choice, touching) <= damage + 1e-9
        assert problem.priced(choice, there) <= damage + 1e-9
    assert math.isclose(
        problem.priced(here.choice(), touching), _damage(problem, here.choice()), abs_tol=1e-9
    )
    for at in range(len(problem.options)):
        other = here.at_choice(here.choice())
        other.move_option(at)
        change = problem.priced(other.choice(), around) - problem.priced(here.choice(), around)
        exact = _damage(problem, other.choice()) - _damage(problem, here.choice())
        if set(other.choice().options) != set(here.choice().options) and not np.any(
            here.absorbed & ~other.absorbed
        ):
            assert math.isclose(change, exact, abs_tol=1e-9)


def _pair(weight: float) -> Problem:
    """Two dims whose effects undo each other, a third that goes with neither; each is as cheap to cut."""
    dims = tuple(DimOptions(name, (16, 8), (0.0, 0.25)) for name in "abc")
    nodes = tuple(TimeTerm(f"n{name}", (Term(1.0, (name,)),)) for name in "abc")
    vectors: dict[Key, FloatArray] = {
        ("a", 8): np.array([0.5, 0.0]),
        ("b", 8): np.array([-0.5, 0.0]),
        ("c", 8): np.array([0.0, 0.5]),
    }
    return Problem(dims, nodes, interaction=Interaction(vectors, weight))


def test_what_undoes_itself_goes_together() -> None:
    result = minimize_damage(_pair(1.0), 32.0)
    assert (result.choice.widths, result.damage) == ({"a": 8, "b": 8, "c": 16}, 0.0)
    assert minimize_damage(_pair(0.5), 32.0).damage == 0.25
    assert minimize_damage(_pair(0.0), 32.0).damage == 0.5
    assert minimize_time(_pair(1.0), 0.01).choice.widths == {"a": 8, "b": 8, "c": 16}
    assert minimize_time(_pair(1.0), 0.25).time == 24.0
    assert minimize_time(_pair(0.5), 0.26).time == 32.0


def test_candidates_without_a_vector_and_vectors_without_a_candidate() -> None:
    problem = _pair(1.0)
    assert problem.interaction is not None
    vectors = {**problem.interaction.vectors, "gone": np.array([1.0, 1.0])}
    del vectors["b", 8]
    other = replace(problem, interaction=Interaction(vectors, 1.0))
    assert other.damage(Choice({"a": 8, "b": 8})) == 0.5


def test_the_same_twice_and_without_effort() -> None:
    problem = _many(12)
    budget = 0.6 * problem.time(problem.full())
    result = minimize_damage(problem, budget)
    assert result == minimize_damage(_many(12), budget)
    hasty = minimize_damage(problem, budget, SearchLimits(effort=1e-6))
    assert hasty.time <= budget * (1 + TOLERANCE)
    assert hasty.bound <= hasty.damage


def _many(count: int) -> Problem:
    """Dims in a row whose effects have a part in common."""
    random = np.random.default_rng(0)
    common = random.standard_normal(40)
    dims: list[DimOptions] = []
    vectors: dict[Key, FloatArray] = {}
    for at in range(count):
        own, widths = random.standard_normal(40), tuple(range(64, 0, -8))
        for width in widths[1:]:
            vectors[f"d{at}", width] = 0.01 * (1 - width / 64) * (common + own)
        damages = [0.0, *(float(np.square(vectors[f"d{at}", width]).sum()) for width in widths[1:])]
        dims.append(DimOptions(f"d{at}", widths, tuple(damages)))
    terms = tuple(Term(1.0, (f"d{at}", f"d{at + 1}")) for at in range(count - 1))
    return Problem(tuple(dims), terms=terms, interaction=Interaction(vectors, 0.8))


def test_many_dims_to_a_small_gap() -> None:
    problem = _many(30)
    budget = 0.6 * problem.time(problem.full())
    result = minimize_damage(problem, budget)
    assert result.gap <= 0.1
    plain = minimize_damage(replace(problem, interaction=None), budget)
    assert result.damage <= problem.damage(plain.choice)
    back = minimize_time(problem, result.damage)
    assert back.time <= result.time * 1.01
    assert back.bound <= result.time


def test_a_damage_limit_out_of_reach_together() -> None:
    problem = _pair(1.0)
    dear = replace(problem, dims=(DimOptions("a", (16, 8), (0.5, 0.6)), *problem.dims[1:]))
    with pytest.raises(UsageError, match=r"max-drop 0\.1: out of reach; .* is 0\.35; ask for 0\.35 or more"):
        minimize_time(dear, 0.1)


@pytest.mark.parametrize(
    ("vectors", "weight", "text"),
    [
        ({}, 1.5, "the weight of an interaction is 1.5; it must be from 0 to 1"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, 1.0, "must have one length"),
        ({("d", 8): np.array([math.nan])}, 1.0, "d at 8: its vector is not finite"),
    ],
)
def test_bad_interactions_are_refused(vectors: dict[Key, FloatArray], weight: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Interaction(vectors, weight)


def test_vectors_are_scaled_to_damages() -> None:
    interaction = Interaction({("a", 8): np.array([3.0, 4.0]), "o": np.zeros(2)}, 1.0)
    dims, options = (DimOptions("a", (16, 8), (0.0, 0.25)),), (Option("o", 0.1, frozenset({"n"})),)
    with pytest.raises(ValueError, match=r"a at 8: its vector does 25, more than its damage alone, 0\.25"):
        Problem(dims, (TimeTerm("n"),), options, interaction=interaction)
    problem = Problem(dims, (TimeTerm("n"),), options)
    scaled = interaction.scaled(problem.damages)
    assert np.allclose(scaled.vectors["a", 8], [0.3, 0.4])
    assert np.allclose(scaled.vectors["o"], 0.0)
    assert math.isclose(replace(problem, interaction=scaled).damage(Choice({"a": 8}, ("o",))), 0.35)
