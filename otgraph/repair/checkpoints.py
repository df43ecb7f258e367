"""Values of one network that are kept so that parts of it can be run again from the middle."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.feeds import Feed
from otgraph.graph.graph import Graph
from otgraph.repair.frontier import Execution
from otgraph.repair.memory import UNLIMITED, Memory, add_storages

Visit = Callable[[fx.Node, int, Any], None]


class Checkpoints:
    """The values of ``graph`` on ``batches``: the smallest are held, the others computed again from them.

    ``limit`` bounds the bytes that are held. ``visit`` sees every value once, while it is computed. Of the
    batches in ``judged`` (None: of all) ``outputs`` are kept too, of the others they are empty.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Sequence[Feed],
        limit: int,
        visit: Visit,
        judged: Collection[int] | None = None,
    ) -> None:
        self.graph = graph
        self.outputs: list[tuple[torch.Tensor, ...]] = []
        self._batches = batches
        self._judged = range(len(batches)) if judged is None else frozenset(judged)
        self._nodes = {node.name: node for node in graph.module.graph.nodes}
        self._held: list[dict[str, Any]] = []
        samples = sum(len(batch[0]) for batch in batches)
        chosen: Collection[str] | None = None  # by the first batch
        with torch.no_grad():
            for index, batch in enumerate(batches):
                smallest = Smallest(limit * len(batch[0]) / samples, chosen)
                self._run(Execution(graph, [batch], Memory(UNLIMITED)), index, smallest, visit)
                self._held.append(smallest.values)
                chosen = smallest.values.keys() if chosen is None else chosen

    def values(self, names: Iterable[str], batches: Iterable[int]) -> Iterator[Mapping[str, Any]]:
        """Name → the node's value, for each of ``batches`` in turn."""
        wanted = list(names)
        for index in batches:
            with torch.no_grad():
                values = self._again(wanted, index)
            yield {name: values[name] for name in wanted}

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory."""
        for values in self._held:
            add_storages(tuple(values.values()), held)
        add_storages(self.outputs, held)

    def _run(self, execution: Execution, index: int, held: Smallest, visit: Visit) -> None:
        for node in self._nodes.values():
            if node.op == "get_attr":
                continue
            execution.step(node)
            if node.name not in execution.values:
                continue
            value = execution.values[node.name][0]
            if node.op == "output":
                self.outputs.append(tuple(value) if index in self._judged else ())
                continue
            visit(node, index, value)
            held.offer(node.name, value)

    def _again(self, wanted: Sequence[str], index: int) -> dict[str, Any]:
        held = self._held[index]
        missing: set[str] = set()
        stack = [name for name in wanted if name not in held]
        while stack:
            name = stack.pop()
            if name in missing:
                continue
            missing.add(name)
            sources = self._nodes[name].all_input_nodes
            stack += [s.name for s in sources if s.op != "get_attr" and s.name not in held]
        if not missing:
            return held
        execution = Execution(self.graph, [self._batches[index]], Memory(UNLIMITED))
        execution.begin_with(held.keys(), [held])
        for name in wanted:
            execution.pin(name)
        for name, node in self._nodes.items():
            if name in missing:
                execution.step(node)
        found = execution.values
        return {name: found[name][0] for name in wanted}


class Smallest:
    """Of the values it is offered, the smallest that fit in ``limit`` bytes, or those in ``chosen``.

    What does not fit is let go at once: at no time are more than ``limit`` bytes held. What is no tensor is
    free.
    """

    def __init__(self, limit: float, chosen: Collection[str] | None = None) -> None:
        self.values: dict[str, Any] = {}
        self._limit = limit
        self._chosen = chosen
        self._entries: list[tuple[int, int, str]] = []  # ascending; among equals the first offered is first
        self._bound: tuple[int, int, str] | None = None  # the smallest that was let go
        self._total = 0
        self._offered = 0

    def offer(self, name: str, value: Any) -> None:
        """Hold ``value`` as long as no smaller ones want its place."""
        if self._chosen is not None:
            if name in self._chosen:
                self.values[name] = value
            return
        self._offered += 1
        entry = (_bytes(value), self._offered, name)
        if self._bound is not None and entry > self._bound:
            return
        insort(self._entries, entry)
        self.values[name] = value
        self._total += entry[0]
        while self._total > self._limit:
            self._bound = self._entries.pop()
            self._total -= self._bound[0]
            del self.values[self._bound[2]]


def _bytes(value: Any) -> int:
    """Of the storage that is held with ``value``, which for a view is that of the whole."""
    held: dict[int, int] = {}
    add_storages(value, held)
    return sum(held.values())
