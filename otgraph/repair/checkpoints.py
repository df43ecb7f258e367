"""Values of one network that are kept so that parts of it can be run again from the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.feeds import Feed
from otgraph.graph.graph import Graph
from otgraph.repair.frontier import Memory, Program

Visit = Callable[[fx.Node, int, Any], None]


class Checkpoints:
    """The values of ``graph`` on ``batches``: the smallest are held, the others computed again from them.

    ``limit`` bounds the bytes that are held. ``visit`` sees every value once, while it is computed.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feed], limit: int, visit: Visit) -> None:
        self.graph = graph
        self.outputs: list[tuple[torch.Tensor, ...]] = []
        self._batches = batches
        self._nodes = {node.name: node for node in graph.module.graph.nodes}
        self._held: list[dict[str, Any]] = []
        chosen: set[str] | None = None
        with torch.no_grad():
            for index, batch in enumerate(batches):
                program = Program(graph, [batch], Memory(_UNLIMITED))
                held = self._run(program, index, chosen, visit)
                if chosen is None:
                    share = limit * len(batch[0]) / sum(len(b[0]) for b in batches)
                    chosen = _smallest(held, share)
                    held = {name: value for name, value in held.items() if name in chosen}
                self._held.append(held)

    def values(self, names: Iterable[str], batches: int) -> Mapping[str, list[Any]]:
        """Name → the node's values, one per batch, of the first ``batches``."""
        wanted = list(names)
        found: dict[str, list[Any]] = {name: [] for name in wanted}
        with torch.no_grad():
            for index in range(batches):
                values = self._again(wanted, index)
                for name in wanted:
                    found[name].append(values[name])
        return found

    def _run(self, program: Program, index: int, chosen: set[str] | None, visit: Visit) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for node in self._nodes.values():
            if node.op == "get_attr":
                continue
            program.step(node)
            if node.name not in program.values:
                continue
            value = program.values[node.name][0]
            if node.op == "output":
                self.outputs.append(tuple(value))
                continue
            visit(node, index, value)
            if chosen is None or node.name in chosen:
                held[node.name] = value
        return held

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
        program = Program(self.graph, [self._batches[index]], Memory(_UNLIMITED))
        ready = {name: [value] for name, value in held.items()}
        program.begin_with(ready.keys(), ready)
        for name in wanted:
            program.pin(name)
        for name, node in self._nodes.items():
            if name in missing:
                program.step(node)
        return {name: program.values[name][0] for name in wanted}


def _smallest(values: Mapping[str, Any], limit: float) -> set[str]:
    """The names whose values fit in ``limit`` bytes, from the smallest on; what is no tensor is free."""
    sizes = {name: _bytes(value) for name, value in values.items()}
    chosen: set[str] = set()
    total = 0
    for name in sorted(sizes, key=lambda n: sizes[n]):
        total += sizes[name]
        if total > limit:
            break
        chosen.add(name)
    return chosen


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


_UNLIMITED = 1 << 62
