"""``Program``: a graph executed node by node over *all* batches, holding only the values still needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.calibrate.feeds import Feed
from otgraph.graph.graph import Graph
from otgraph.repair.spill import spill


class Memory:
    """How many bytes of values all programs together may hold before new ones go to files in ``folder``."""

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit = limit
        self.folder = folder
        self.programs: list[Program] = []
        self.peak = 0
        self.spilled = 0

    def used(self) -> int:
        """Bytes of the distinct storages held in memory."""
        held: dict[int, int] = {}
        for program in self.programs:
            program.storages(held)
        return sum(held.values())

    def place(self, values: list[Any]) -> tuple[list[Any], bool]:
        """``values`` as they are, or mapped from files when they would exceed the limit; and whether they
        were."""
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        size = sum(value.numel() * value.element_size() for value in tensors)
        used = self.used()
        if used + size <= self.limit or len(tensors) < len(values):
            self.peak = max(self.peak, used + size)
            return values, False
        self.spilled += size
        return [spill(value, self.folder) for value in values], True


class Program:
    """One graph and its values so far.

    ``values[name]`` is a list with one entry per batch, present from when the node is executed until its last
    user is. ``overrides`` replaces stored tensors, so that the graph itself is never edited. The total cost
    of running to the end is one forward pass over the batches.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feed], memory: Memory) -> None:
        self.graph = graph
        self.values: dict[str, list[Any]] = {}
        self.done: set[str] = set()
        self.overrides: dict[str, torch.Tensor] = {}
        self.nodes = {node.name: node for node in graph.module.graph.nodes}
        self.batches = batches
        self._memory = memory
        self._mapped: set[str] = set()
        self._pending = [node for node in graph.module.graph.nodes if node.op != "get_attr"]
        self._cursor = 0
        self._uses = {node.name: len(node.users) for node in graph.module.graph.nodes}
        self._caller = fx.Interpreter(graph.module, garbage_collect_values=False)
        memory.programs.append(self)

    def tensor(self, name: str) -> torch.Tensor:
        """A stored tensor as it is after the repairs so far."""
        found = self.overrides.get(name)
        return self.graph.tensor(name).detach() if found is None else found

    def pin(self, name: str) -> None:
        """Hold the value of ``name`` until ``unpin``, beyond its last use."""
        self._uses[name] += 1

    def unpin(self, name: str) -> None:
        """Undo one ``pin``; frees the value when nothing else needs it."""
        self._release(name)

    def advance_to(self, name: str) -> None:
        """Execute, in program order, everything up to and including ``name``."""
        while name not in self.done:
            self.step(self._pending[self._cursor])
            self._cursor += 1

    def step(self, node: fx.Node) -> None:
        """Execute one node over all batches, unless that was done already."""
        if node.name in self.done:
            return
        self.adopt(node, self.evaluate(node))

    def evaluate(self, node: fx.Node) -> list[Any]:
        """The values of ``node`` from those of its inputs, one per batch.

        An input that nothing else needs is freed batch by batch, so that both are never whole in memory.
        """
        dying = [s.name for s in node.all_input_nodes if s.op != "get_attr" and self._uses[s.name] == 1]
        values: list[Any] = []
        for index in range(len(self.batches)):
            values.append(self._evaluate(node, index))
            for name in dying:
                self.values[name][index] = None
        return values

    def adopt(self, node: fx.Node, values: list[Any]) -> None:
        """Take ``values`` as those of ``node``, and free what only it needed."""
        self._finish(node)
        if self._uses[node.name] == 0 and node.op != "output":
            return
        held = any(_shares(values, found) for found in self.values.values())
        self.values[node.name], mapped = (values, False) if held else self._memory.place(values)
        if mapped:
            self._mapped.add(node.name)

    def begin_with(self, executed: Collection[str], values: Mapping[str, list[Any]]) -> None:
        """Take ``executed`` as done; ``values`` gives those of them that any other node reads."""
        self.done |= set(executed)
        for name in executed:
            self._uses[name] = sum(user.name not in executed for user in self.nodes[name].users)
        self.values.update(values)

    def share(self, node: fx.Node, other: Program) -> None:
        """Take the values of the node of the same name from ``other``, which has just executed it."""
        self._finish(node)
        if self._uses[node.name]:
            self.values[node.name] = list(other.values[node.name])  # each frees its own
            if node.name in other._mapped:
                self._mapped.add(node.name)

    def _finish(self, node: fx.Node) -> None:
        self.done.add(node.name)
        for source in node.all_input_nodes:
            self._release(source.name)

    def replace(self, name: str, values: list[Any]) -> None:
        """Put other values in place of those of an executed node."""
        if name in self.values:
            self.values[name] = values

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory."""
        for name, values in self.values.items():
            if name in self._mapped:
                continue
            for value in values:
                if isinstance(value, torch.Tensor):
                    storage = value.untyped_storage()
                    held[storage.data_ptr()] = storage.nbytes()

    def _evaluate(self, node: fx.Node, index: int) -> Any:
        if node.op == "placeholder":
            return self.batches[index][self._position(node)]
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self._load(source, index))
        if node.op == "output":
            return args[0]
        return getattr(self._caller, node.op)(node.target, args, kwargs)

    def _position(self, node: fx.Node) -> int:
        return [n for n in self._pending if n.op == "placeholder"].index(node)

    def _load(self, source: fx.Node, index: int) -> Any:
        if source.op != "get_attr":
            return self.values[source.name][index]
        found = self.overrides.get(str(source.target))
        return self._caller.fetch_attr(str(source.target)) if found is None else found

    def _release(self, name: str) -> None:
        self._uses[name] -= 1
        if self._uses[name] <= 0 and name in self.done:
            self.values.pop(name, None)
            self._mapped.discard(name)


def _shares(values: list[Any], held: list[Any]) -> bool:
    """Whether the first new tensor is a view of a held one (then so are all, and none costs memory)."""
    a, b = values[0], held[0]
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
