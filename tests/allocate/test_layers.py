"""A budget of layers against enumeration on random networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.allocate.allocation import minimize_damage
from otgraph.allocate.cost import Term, TimeTerm
from otgraph.allocate.interaction import Interaction, Key
from otgraph.allocate.layers import LayerGraph, LayerNode
from otgraph.allocate.option import Option
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem
from otgraph.errors import UsageError

QUICK = settings(max_examples=60, deadline=None)


def problem_from(seed: int, *, interacting: bool, dims: int = 0) -> Problem:
    """A random network of a few nodes, options over runs of it, and dims that some of the nodes read."""
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 9))
    nodes: list[LayerNode] = []
    for at in range(count):
        reads = {at - 1} if at else set[int]()
        if at > 1 and random.uniform() < 0.5:
            reads.add(int(random.integers(0, at)))
        if at > 1 and random.uniform() < 0.2:
            reads = {int(random.integers(0, at))}
        nodes.append(LayerNode(f"n{at}", tuple(sorted(reads)), int(random.uniform() < 0.8)))
    options: list[Option] = []
    adds: dict[str, dict[str, int]] = {}
    vectors: dict[Key, np.ndarray] = {}
    for number in range(int(random.integers(1, 6))):
        name = f"o{number}"
        start = int(random.integers(0, count))
        members = [f"n{at}" for at in range(start, min(start + int(random.integers(1, 4)), count))]
        vectors[name] = random.normal(size=4) * 0.3
        damage = float(vectors[name] @ vectors[name])
        options.append(Option(name, damage, frozenset(members)))
        if random.uniform() < 0.5:
            adds[name] = {members[-1]: 1}
    wide = tuple(DimOptions(f"d{at}", (4, 2), (0.0, float(random.choice([0.0, 0.1])))) for at in range(dims))
    times = [float(random.integers(1, 5)) for _ in nodes]
    read = [tuple(f"d{at}" for at in range(dims) if random.uniform() < 0.4) for _ in nodes]
    return Problem(
        wide,
        tuple(
            TimeTerm(node.name, (Term(time, names),))
            for node, time, names in zip(nodes, times, read, strict=True)
        ),
        tuple(options),
        interaction=Interaction(vectors, 1.0) if interacting else None,
        layers=LayerGraph(tuple(nodes), adds),
    )


def paths(graph: LayerGraph, options: tuple[Option, ...]) -> int:
    """The longest path by walking every one of them."""
    gone = {name for option in options for name in option.removes}
    came = {name: c for option in options for name, c in graph.adds.get(option.name, {}).items()}

    def walk(at: int) -> int:
        node = graph.nodes[at]
        own = (0 if node.name in gone else node.layers) + came.get(node.name, 0)
        return own + max((walk(source) for source in node.sources), default=0)

    return max(walk(at) for at in range(len(graph.nodes)))


@QUICK
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 8))
def test_least_damage_within_so_many_layers(seed: int, interacting: bool, layers: int) -> None:
    problem = problem_from(seed, interacting=interacting)
    assert problem.layers is not None
    found: list[tuple[int, float]] = []
    names = [option.name for option in problem.options]
    full = problem.full()
    for count in range(len(names) + 1):
        for taken in itertools.combinations(names, count):
            try:
                chosen = problem.chosen(taken)
            except ValueError:
                continue
            assert problem.layers.longest(chosen) == paths(problem.layers, chosen)
            choice = type(full)(full.widths, taken)
            found.append((paths(problem.layers, chosen), problem.damage(choice)))
    fits = [damage for depth, damage in found if depth <= layers]
    if not fits:
        least = min(depth for depth, _ in found)
        with pytest.raises(UsageError, match=rf"layers {layers}: out of reach; the smallest .* is {least};"):
            minimize_damage(problem, layers=layers)
        return
    got = minimize_damage(problem, layers=layers)
    assert problem.layers.longest(problem.chosen(got.choice.options)) <= layers
    assert got.bound <= min(fits) + 1e-9
    assert got.damage <= min(fits) * (1 + 1e-6 if not interacting else 1.3) + 1e-9


def test_a_network_that_is_short_enough_stays_as_it_is() -> None:
    problem = problem_from(1, interacting=False)
    assert problem.layers is not None
    found = minimize_damage(problem, layers=problem.layers.longest())
    assert not found.choice.options and found.damage == 0


@QUICK
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 8), st.floats(0, 1))
def test_layers_and_time_together(seed: int, interacting: bool, layers: int, share: float) -> None:
    problem = problem_from(seed, interacting=interacting, dims=2)
    assert problem.layers is not None
    found = [
        (problem.layers.longest(chosen), problem.time(choice), problem.damage(choice))
        for chosen in compatible(problem)
        for levels in itertools.product(range(2), repeat=2)
        for choice in [problem.choice(levels, [option.name for option in chosen])]
    ]
    times = [time for _, time, _ in found]
    budget = min(times) + share * (max(times) - min(times))
    fits = [damage for depth, time, damage in found if depth <= layers and time <= budget * (1 + 1e-9)]
    if not fits:
        with pytest.raises(UsageError, match=r"(layers|latency) .*: out of reach; the smallest"):
            minimize_damage(problem, budget, layers=layers)
        return
    got = minimize_damage(problem, budget, layers=layers)
    assert problem.layers.longest(problem.chosen(got.choice.options)) <= layers
    assert got.time <= budget * (1 + 2 * TOLERANCE)
    assert got.bound <= min(fits) + 1e-9
    assert got.damage <= min(fits) * (1 + 1e-6 if not interacting else 1.5) + 1e-9


def compatible(problem: Problem) -> Iterator[tuple[Option, ...]]:
    """Every set of options that do not exclude each other."""
    for count in range(len(problem.options) + 1):
        for taken in itertools.combinations(problem.options, count):
            if not any(one.excludes(other) for one, other in itertools.combinations(taken, 2)):
                yield taken


@QUICK
@given(st.integers(0, 10_000))
def test_what_paths_are_reduced_to_is_as_long(seed: int) -> None:
    problem = problem_from(seed, interacting=False)
    assert problem.layers is not None
    for chosen in compatible(problem):
        choice = problem.choice((), [option.name for option in chosen])
        assert problem.longest(choice) == paths(problem.layers, chosen)


def _residual(blocks: int) -> Problem:
    """Residual blocks of two convolutions, with a convolution on the way around every third; each block may
    go, or become one convolution."""
    nodes = [LayerNode("stem", (), 1)]
    options: list[Option] = []
    adds: dict[str, dict[str, int]] = {}
    for at in range(blocks):
        start = len(nodes) - 1
        names = [f"{part}{at}" for part in ("one", "relu", "two", "around", "add")]
        sources = [(start,), (start + 1,), (start + 2,), (start,), (start + 3, start + 4)]
        layers = [1, 0, 1, int(at % 3 == 0), 0]
        nodes += [LayerNode(*each) for each in zip(names, sources, layers, strict=True)]
        gone = frozenset(names)
        options.append(Option(f"drop {at}", 1.2 + 0.1 * at, gone))
        options.append(Option(f"merge {at}", 0.4 + 0.1 * at, gone))
        adds[f"merge {at}"] = {names[-1]: 1}
    times = tuple(TimeTerm(node.name, (Term(1.0),)) for node in nodes)
    return Problem((), times, tuple(options), layers=LayerGraph(tuple(nodes), adds))


def test_a_chain_of_residual_blocks_is_one_node() -> None:
    problem = _residual(9)
    assert problem.longest(problem.full()) == 19
    assert len(problem.paths.layers) == 1
    found = minimize_damage(problem, layers=16)
    assert found.choice.options == ("merge 0", "merge 1", "merge 2")
    assert (found.status, found.damage) == ("optimal", pytest.approx(1.5))
    assert problem.longest(found.choice) == 16
    with pytest.raises(UsageError) as error:
        minimize_damage(problem, layers=0)
    text = "layers 0: out of reach; the smallest with these spans is 1; ask for that or more"
    assert str(error.value) == text


def test_without_paths_no_budget_of_layers() -> None:
    problem = replace(_residual(1), layers=None)
    with pytest.raises(ValueError, match="does not say how its nodes read each other"):
        minimize_damage(problem, layers=2)


def test_a_node_reads_what_is_before_it() -> None:
    with pytest.raises(ValueError, match="reads a node that comes after it"):
        LayerGraph((LayerNode("a", (0,), 1),), {})
