"""``LayerGraph``: the paths of a network, and how many layers are on the longest once options are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.allocate.option import Option

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LayerNode:
    """One node of the data flow: the positions of those it reads among the nodes, all before its own, and how
    many layers it is (1 for a convolution or product, else 0)."""

    name: str
    sources: tuple[int, ...]
    layers: int


@dataclass(frozen=True)
class LayerGraph:
    """``nodes`` in topological order. ``adds``: by option, how many layers come at which node; the nodes that
    an option removes are none any more."""

    nodes: tuple[LayerNode, ...]
    adds: Mapping[str, Mapping[str, int]]

    def __post_init__(self) -> None:
        for at, node in enumerate(self.nodes):
            if any(source >= at for source in node.sources):
                raise ValueError(f"{node.name}: reads a node that comes after it")

    def longest(self, options: Collection[Option] = ()) -> int:
        """The layers on the longest path with ``options`` chosen."""
        gone = frozenset[str]().union(*(option.removes for option in options))
        added: dict[str, int] = {}
        for option in options:
            for name, count in self.adds.get(option.name, {}).items():
                added[name] = added.get(name, 0) + count
        depth: list[int] = []
        for node in self.nodes:
            own = (0 if node.name in gone else node.layers) + added.get(node.name, 0)
            depth.append(own + max((depth[source] for source in node.sources), default=0))
        return max(depth, default=0)


@dataclass(frozen=True, eq=False)
class Paths:
    """What is left of a ``LayerGraph`` once everything is put together that options cannot tell apart: nodes
    that follow each other alone are one, what reads around others is no path of its own, and nodes without
    layers are gone. A chain of residual blocks is one node.

    ``layers``: of each node, shape (nodes,), with no option chosen; ``changes``: by how much each option
    changes them, (options, nodes); ``sources``: the nodes that each reads, all before it.
    """

    layers: Integers
    changes: Integers
    sources: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(graph: LayerGraph, options: Sequence[Option]) -> Paths:
        """The paths of ``graph`` as ``options`` change them."""
        sketch = _Sketch(graph, options)
        while sketch.merge_rows() or sketch.drop_weightless() or sketch.drop_covered() or sketch.thin_out():
            pass
        kept = sorted(sketch.sources)
        place = {node: at for at, node in enumerate(kept)}
        changes = np.zeros((len(options), len(kept)), np.int64)
        for at, node in enumerate(kept):
            for option, change in sketch.changes[node].items():
                changes[option, at] = change
        layers = np.array([sketch.layers[node] for node in kept], np.int64)
        return Paths(layers, changes, tuple(tuple(place[s] for s in sorted(sketch.sources[n])) for n in kept))

    def longest(self, chosen: Booleans) -> Integers:
        """The layers on the longest path for each row of ``chosen``, shape (rows, options)."""
        return self.depths(chosen).max(axis=1, initial=0)

    def depths(self, chosen: Booleans) -> Integers:
        """The layers up to each node and with it, shape (rows, nodes), for each row of ``chosen``."""
        own = self.layers + chosen.astype(np.int64) @ self.changes
        depth = np.zeros_like(own)
        for at, sources in enumerate(self.sources):
            before = depth[:, list(sources)].max(axis=1) if sources else 0
            depth[:, at] = own[:, at] + before
        return depth


class _Sketch:
    """A graph under reduction: by node, in topological order, the nodes that it reads and that read it, its
    layers, and what each option, by position, changes of them. No reduction changes a longest path."""

    def __init__(self, graph: LayerGraph, options: Sequence[Option]) -> None:
        self.options = options
        self.sources = {at: set(node.sources) for at, node in enumerate(graph.nodes)}
        self.readers: dict[int, set[int]] = {at: set() for at in self.sources}
        for at, sources in self.sources.items():
            for source in sources:
                self.readers[source].add(at)
        self.layers = {at: node.layers for at, node in enumerate(graph.nodes)}
        self.changes: dict[int, dict[int, int]] = {at: {} for at in self.sources}
        for number, option in enumerate(options):
            added = graph.adds.get(option.name, {})
            for at, node in enumerate(graph.nodes):
                change = added.get(node.name, 0) - (node.layers if node.name in option.removes else 0)
                if change:
                    self.changes[at][number] = change

    def merge_rows(self) -> bool:
        """Make one of a node and the only one that reads it, if that reads nothing else."""
        changed = False
        for node in list(self.sources):
            readers = self.readers[node]
            if len(readers) == 1 and self.sources[last := next(iter(readers))] == {node}:
                self.layers[last] += self.layers[node]
                for option, change in self.changes[node].items():
                    self.changes[last][option] = self.changes[last].get(option, 0) + change
                self._bridge(node)
                changed = True
        return changed

    def drop_weightless(self) -> bool:
        """Let those that read a node without layers read what it reads, where that makes no more edges."""
        changed = False
        for node in list(self.sources):
            before, after = len(self.sources[node]), len(self.readers[node])
            if not self.layers[node] and not self._varies(node) and before * after <= before + after:
                self._bridge(node)
                changed = True
        return changed

    def _varies(self, node: int) -> bool:
        return any(self.changes[node].values())

    def _bridge(self, node: int) -> None:
        """Take a node out and join its ends."""
        for source in self.sources[node]:
            self.readers[source].remove(node)
            self.readers[source] |= self.readers[node]
        for reader in self.readers[node]:
            self.sources[reader].remove(node)
            self.sources[reader] |= self.sources[node]
        del self.sources[node], self.readers[node], self.layers[node], self.changes[node]

    def drop_covered(self) -> bool:
        """Take out what lies between the same nodes as another that is never of fewer layers."""
        groups: dict[tuple[frozenset[int], frozenset[int]], list[int]] = {}
        for node in self.sources:
            ends = frozenset(self.sources[node]), frozenset(self.readers[node])
            groups.setdefault(ends, []).append(node)
        covered: set[int] = set()
        for one, other in (pair for group in groups.values() for pair in itertools.permutations(group, 2)):
            if one not in covered and other not in covered and self._covers(one, other):
                covered.add(other)
        for node in covered:
            for source in self.sources[node]:
                self.readers[source].remove(node)
            for reader in self.readers[node]:
                self.sources[reader].remove(node)
            del self.sources[node], self.readers[node], self.layers[node], self.changes[node]
        return bool(covered)

    def _covers(self, one: int, other: int) -> bool:
        """Whether ``one`` has at least the layers of ``other`` whatever is chosen."""
        losses: dict[int, int] = {}
        for option in self.changes[one].keys() | self.changes[other].keys():
            loss = self.changes[other].get(option, 0) - self.changes[one].get(option, 0)
            if loss > 0:
                losses[option] = loss
        pairs = itertools.combinations(losses, 2)
        alone = all(self.options[a].excludes(self.options[b]) for a, b in pairs)
        most = max(losses.values(), default=0) if alone else sum(losses.values())
        return self.layers[one] - self.layers[other] >= most

    def thin_out(self) -> bool:
        """Drop edges around other nodes (transitive reduction): the way through those is no shorter."""
        reached: dict[int, int] = {}
        changed = False
        for node in sorted(self.sources):
            far = 0
            for source in self.sources[node]:
                far |= reached[source]
            around = {source for source in self.sources[node] if far >> source & 1}
            for source in around:
                self.readers[source].remove(node)
            self.sources[node] -= around
            reached[node] = far | sum(1 << source for source in self.sources[node])
            changed = changed or bool(around)
        return changed
