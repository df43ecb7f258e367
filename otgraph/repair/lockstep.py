"""Two versions of a network executed side by side in execution order, aligned by node name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.rows import Sampling, gathered
from otgraph.graph.graph import Graph
from otgraph.repair.frontier import Execution
from otgraph.repair.memory import UNLIMITED, Memory

Visit = Callable[[fx.Node], None]


def same_nodes(new: Graph, original: Graph) -> frozenset[str]:
    """The nodes that compute the same values in both graphs: same operation on the same arguments and
    tensors."""
    there = {node.name: node for node in original.module.graph.nodes}
    same: set[str] = set()
    for node in new.module.graph.nodes:
        other = there.get(node.name)
        if other is None or node.op != other.op or node.op == "output":
            continue
        if node.op == "get_attr":
            if str(node.target) == str(other.target) and _equal(new, original, str(node.target)):
                same.add(node.name)
        elif node.target == other.target and _same_arguments(node, other, same):
            same.add(node.name)
    return frozenset(same)


def _equal(new: Graph, original: Graph, name: str) -> bool:
    a, b = new.tensor(name), original.tensor(name)
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return False
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _same_arguments(node: fx.Node, other: fx.Node, same: Collection[str]) -> bool:
    written = (repr(node.args), repr(node.kwargs)) == (repr(other.args), repr(other.kwargs))
    return written and all(source.name in same for source in node.all_input_nodes)


@dataclass(frozen=True)
class Walked:
    """Outputs of both networks, one tuple per batch, after the walk."""

    outputs: list[tuple[torch.Tensor, ...]]
    reference: list[tuple[torch.Tensor, ...]]


class Lockstep:
    """Walks ``new`` node by node and lets ``original`` follow as far as is asked.

    What is the same in both (everything before the first cut) is computed once. ``new.overrides`` is where a
    repair puts the tensors it changed; a node executed after that uses them.
    """

    def __init__(
        self,
        new: Graph,
        original: Graph,
        batches: Sequence[Feed],
        memory: Memory,
        sampling: Sampling | None = None,
    ) -> None:
        self.sampling = sampling or Sampling()
        self.samples = sum(len(batch[0]) for batch in batches)
        self.new = Execution(new, batches, memory)
        self.original = Execution(original, batches, memory)
        self.same = same_nodes(new, original)
        self.batches = len(batches)

    def walk(self, before: Visit, after: Visit, needs: Mapping[str, Sequence[str]]) -> Walked:
        """Execute both networks to the end; ``before`` and ``after`` see each node of the new one.

        ``needs``: node of the new network → nodes of the original whose values are held until it was visited.
        """
        held = {name: [n for n in names if n in self.original.nodes] for name, names in needs.items()}
        for name in (n for names in held.values() for n in names):
            self.original.pin(name)
        with torch.no_grad():
            for node in self.new.graph.module.graph.nodes:
                if node.op == "get_attr":
                    continue
                before(node)
                self._step(node)
                after(node)
                for name in held.get(node.name, ()):
                    self.original.unpin(name)
            return Walked(outputs_of(self.new), outputs_of(self.original))

    def reference(self, name: str) -> Sequence[Any] | None:
        """The original's values of the node called ``name``, run that far if needed; None where it has no
        such node or its values were not pinned and are gone."""
        if name not in self.original.nodes:
            return None
        self.original.advance_to(name)
        return self.original.values.get(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the original's value for the first batch; None where ``reference`` is."""
        found = self.reference(name)
        return None if found is None else tuple(found[0].shape)

    def pick(self, name: str, total: int, width: int, batch: int) -> torch.Tensor:
        """The positions that the sampling draws for one batch."""
        return Sampling.pick(total, self.sampling.count(width, self.samples), batch)

    def sample(self, name: str, batch: int, axis: int, at: torch.Tensor) -> torch.Tensor:
        """The original's value at some positions, as ``gathered`` takes it."""
        found = self.reference(name)
        assert found is not None
        return gathered(found[batch], axis, at)

    def _step(self, node: fx.Node) -> None:
        self.new.step(node)
        if node.name in self.same and node.name not in self.original.done and node.name in self.new.values:
            self.original.share(self.original.nodes[node.name], self.new)


def run_with(
    graph: Graph, overrides: Mapping[str, torch.Tensor], batches: Sequence[Feed]
) -> list[tuple[torch.Tensor, ...]]:
    """The outputs of ``graph`` for each batch, with the tensors in ``overrides`` in place of the stored
    ones."""
    found: list[tuple[torch.Tensor, ...]] = []
    with torch.no_grad():
        for batch in batches:
            execution = Execution(graph, [batch], Memory(UNLIMITED))
            execution.overrides.update(overrides)
            found += outputs_of(execution)
    return found


def outputs_of(
    execution: Execution, batches: Collection[int] | None = None
) -> list[tuple[torch.Tensor, ...]]:
    """Run ``execution`` to its end: one tuple of outputs per batch.

    With ``batches`` (as ``Execution.finish``) of those only, and the execution is of no further use.
    """
    return execution.finish(batches)
