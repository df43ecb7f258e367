"""``Execution``: a graph executed over *all* batches, holding only the values still needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.calibrate.feeds import Feed
from otgraph.graph.graph import Graph
from otgraph.repair.memory import Memory, Values


class Execution:
    """One graph and its values so far.

    ``values[name]`` has one entry per batch, present from when the node is executed until its last user is.
    Nodes are executed when values are asked for: those that were put off until then run one after the other
    batch by batch, so that what only they need is never held for more than one batch. ``overrides`` replaces
    stored tensors, so that the graph itself is never edited; a node uses what is in it when it is executed.
    The total cost of running to the end is one forward pass over the batches.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feed], memory: Memory) -> None:
        self.graph = graph
        self.done: set[str] = set()
        self.overrides: dict[str, torch.Tensor] = {}
        self.nodes = {node.name: node for node in graph.module.graph.nodes}
        self.batches = batches
        self.memory = memory
        self._values: dict[str, Values] = {}
        self._deferred: list[fx.Node] = []
        self._order = [node for node in graph.module.graph.nodes if node.op != "get_attr"]
        self._inputs = [node.name for node in self._order if node.op == "placeholder"]
        self._cursor = 0
        self._uses = {node.name: len(node.users) for node in graph.module.graph.nodes}
        self._caller = fx.Interpreter(graph.module, garbage_collect_values=False)
        memory.watch(self)

    @property
    def values(self) -> Mapping[str, Values]:
        """Node → its values, one per batch, of the nodes stepped through whose values are still needed."""
        self._run()
        return self._values

    def tensor(self, name: str) -> torch.Tensor:
        """A stored tensor as it is after the repairs so far."""
        found = self.overrides.get(name)
        return self.graph.tensor(name).detach() if found is None else found

    def pin(self, name: str) -> None:
        """Hold the value of ``name`` until ``unpin``, beyond its last use."""
        self._uses[name] += 1

    def unpin(self, name: str) -> None:
        """Undo one ``pin``; frees the value when nothing else needs it."""
        self._uses[name] -= 1
        if self._uses[name] <= 0:
            self._values.pop(name, None)

    def advance_to(self, name: str) -> None:
        """Step, in execution order, through everything up to and including ``name``."""
        while name not in self.done:
            self.step(self._order[self._cursor])
            self._cursor += 1

    def step(self, node: fx.Node) -> None:
        """Execute one node over all batches before the next look at ``values``, unless that was done
        already."""
        if node.name not in self.done:
            self.done.add(node.name)
            self._deferred.append(node)

    def evaluate(self, node: fx.Node, index: int, found: Mapping[str, Any]) -> Any:
        """The value of ``node`` for one batch, its inputs in ``found`` or among the values."""
        if node.op == "placeholder":
            return self.batches[index][self._inputs.index(node.name)]
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: self._load(source, index, found))
        if node.op == "output":
            return args[0]
        return getattr(self._caller, node.op)(node.target, args, kwargs)

    def finish(self, batches: Iterable[int] | None = None) -> list[tuple[torch.Tensor, ...]]:
        """Step to the end: one tuple of outputs per batch, or of those in ``batches`` only.

        With ``batches`` what was put off runs for these alone, and the execution cannot be used any further.
        """
        last = next(name for name, node in self.nodes.items() if node.op == "output")
        self.advance_to(last)
        if batches is None or last in self._values:
            values = self.values[last]
            return [tuple(values[index]) for index in (range(len(values)) if batches is None else batches)]
        plan = self._plan()
        return [tuple(self._outcome(plan, index)[last]) for index in batches]

    def begin_with(self, executed: Collection[str], values: Iterable[Mapping[str, Any]]) -> None:
        """Take ``executed`` as done; ``values`` gives, batch by batch, those of them that any other node
        reads."""
        self.done |= set(executed)
        for name in executed:
            self._uses[name] = sum(user.name not in executed for user in self.nodes[name].users)
        for found in values:
            for name, value in found.items():
                self._values.setdefault(name, Values(self.memory)).append(value)

    def share(self, node: fx.Node, other: Execution) -> None:
        """Take the values of the node of the same name from ``other``, which has just executed it."""
        found = other.values[node.name]
        self.done.add(node.name)
        for source in node.all_input_nodes:
            self.unpin(source.name)
        if self._uses[node.name]:
            self._values[node.name] = Values(self.memory, found)

    def replace(self, name: str, values: Iterable[Any]) -> None:
        """Put other values in place of those of an executed node."""
        self._run()
        if name in self._values:
            new = Values(self.memory)
            for batch, value in enumerate(values):
                self._values[name].drop(batch)
                new.append(value)
            self._values[name] = new

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory."""
        for values in self._values.values():
            values.storages(held)

    def _run(self) -> None:
        """Execute what was put off, batch by batch."""
        if not self._deferred:
            return
        plan = self._plan()
        lasting = [n.name for n, _ in plan if self._uses[n.name] > 0 or n.op == "output"]
        made = {name: Values(self.memory) for name in lasting}
        self._values.update(made)  # counted while they grow
        for index in range(len(self.batches)):
            found = self._outcome(plan, index)
            for name in lasting:
                made[name].append(found.pop(name))
        for name in [name for name in self._values if self._uses[name] <= 0 and name not in made]:
            del self._values[name]

    def _plan(self) -> list[tuple[fx.Node, list[str]]]:
        """The nodes that were put off, as used from now on, each with the values that are not needed after
        it."""
        nodes, self._deferred = self._deferred, []
        last: dict[str, int] = {}
        for position, node in enumerate(nodes):
            last[node.name] = position
            for source in node.all_input_nodes:
                self._uses[source.name] -= 1
                last[source.name] = position
        plan: list[tuple[fx.Node, list[str]]] = [(node, []) for node in nodes]
        for name, position in last.items():
            if self._uses[name] <= 0 and self.nodes[name].op not in ("get_attr", "output"):
                plan[position][1].append(name)
        return plan

    def _outcome(self, plan: Sequence[tuple[fx.Node, list[str]]], index: int) -> dict[str, Any]:
        """What is left of one batch after ``plan``; frees, for this batch, what that alone needed."""
        found: dict[str, Any] = {}
        for node, dying in plan:
            found[node.name] = self.evaluate(node, index, found)
            for name in dying:
                if name in found:
                    del found[name]
                else:
                    self._values[name].drop(index)
        return found

    def _load(self, source: fx.Node, index: int, found: Mapping[str, Any]) -> Any:
        if source.op != "get_attr":
            return found[source.name] if source.name in found else self._values[source.name][index]
        stored = self.overrides.get(str(source.target))
        return self._caller.fetch_attr(str(source.target)) if stored is None else stored
