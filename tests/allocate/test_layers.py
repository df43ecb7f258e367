"""A budget of layers against enumeration on random networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.allocate.allocation import minimise_damage
from otgraph.allocate.cost import NodeTime
from otgraph.allocate.interaction import Interaction, Key
from otgraph.allocate.layers import LayerGraph, LayerNode
from otgraph.allocate.option import Option
from otgraph.allocate.problem import Problem
from otgraph.errors import UsageError


def problem_from(seed: int, *, interacting: bool) -> Problem:
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
    return Problem(
        (),
        tuple(NodeTime(node.name) for node in nodes),
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


@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
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
            minimise_damage(problem, layers=layers)
        return
    got = minimise_damage(problem, layers=layers)
    assert problem.layers.longest(problem.chosen(got.choice.options)) <= layers
    assert got.bound <= min(fits) + 1e-6
    assert got.damage <= min(fits) * (1.001 if not interacting else 1.3) + 1e-6


def test_a_network_that_is_short_enough_stays_as_it_is() -> None:
    problem = problem_from(1, interacting=False)
    assert problem.layers is not None
    found = minimise_damage(problem, layers=problem.layers.longest())
    assert not found.choice.options and found.damage == 0


def test_a_node_reads_what_is_before_it() -> None:
    with pytest.raises(ValueError, match="reads a node that comes after it"):
        LayerGraph((LayerNode("a", (0,), 1),), {})
