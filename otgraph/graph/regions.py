"""Single-entry single-exit regions of a program, by dominance on its data flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from otgraph.graph.graph import Graph, op_name

SHAPE_OPS = frozenset(
    {"onnx.Shape", "onnx.Size", "aten.sym_size", "aten.size", "aten.numel", "aten.sym_numel"}
    | {f"aten.{name}" for name in ("new_zeros", "new_ones", "new_empty", "new_full")}
    | {f"aten.{name}" for name in ("zeros_like", "ones_like", "empty_like", "full_like")}
)
"""Operators that read only the shape (or the type) of what they are given."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The data flow of a graph: the inputs and the call nodes that carry data from them to an output.

    Left out: stored tensors, what is computed from them alone, and what is computed from shapes alone (where
    the values of a region are never needed for their shape, the region may go). ``preds`` and ``succs``:
    neighbors within the flow; ``order``: program order; ``outputs``: the nodes that the program returns.
    """

    order: tuple[fx.Node, ...]
    preds: Mapping[fx.Node, tuple[fx.Node, ...]]
    succs: Mapping[fx.Node, tuple[fx.Node, ...]]
    outputs: frozenset[fx.Node]

    @staticmethod
    def of(graph: Graph) -> Flow:
        """The flow of ``graph``."""
        program = list(graph.module.graph.nodes)
        carries: dict[fx.Node, tuple[fx.Node, ...]] = {}
        outputs: set[fx.Node] = set()
        for node in program:
            sources = tuple(source for source in node.all_input_nodes if source in carries)
            if node.op == "output":
                outputs.update(sources)
            elif node.op == "placeholder" or (sources and op_name(node) not in SHAPE_OPS):
                carries[node] = sources
        alive = set(outputs)
        for node in reversed(program):
            if node in alive:
                alive.update(carries[node])
        order = tuple(node for node in program if node in alive)
        users: dict[fx.Node, list[fx.Node]] = {node: [] for node in order}
        for node in order:
            for source in carries[node]:
                users[source].append(node)
        return Flow(
            order,
            {node: carries[node] for node in order},
            {node: tuple(found) for node, found in users.items()},
            frozenset(outputs),
        )

    @cached_property
    def place(self) -> dict[fx.Node, int]:
        """Each node's position in ``order``."""
        return {node: index for index, node in enumerate(self.order)}

    @cached_property
    def dominators(self) -> dict[fx.Node, fx.Node | None]:
        """Node → the nearest node through which every path from an input to it runs; None: there is none."""
        return _dominators(self.order, self.preds, frozenset(n for n in self.order if not self.preds[n]))

    @cached_property
    def post_dominators(self) -> dict[fx.Node, fx.Node | None]:
        """Node → the nearest node through which every path from it to an output runs; None: there is none."""
        return _dominators(self.order[::-1], self.succs, self.outputs)

    def between(self, entry: fx.Node, exit_: fx.Node) -> tuple[fx.Node, ...]:
        """The nodes on the paths from ``entry`` (left out) to ``exit_`` (last), in program order."""
        found = {exit_}
        stack = [exit_]
        while stack:
            for source in self.preds[stack.pop()]:
                if source is not entry and source not in found:
                    found.add(source)
                    stack.append(source)
        return tuple(sorted(found, key=self.place.__getitem__))

    def escapes(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether something outside needs a value of the region ``nodes`` other than its last, if only for
        its shape."""
        inside = set(nodes)
        stack = [user for node in nodes[:-1] for user in node.users if user not in inside]
        seen: set[fx.Node] = set()
        while stack:
            user = stack.pop()
            if user in self.place:
                return True
            if user not in seen:
                seen.add(user)
                stack.extend(reader for reader in user.users if reader not in inside)
        return False

    def chains(self) -> Iterator[tuple[fx.Node, ...]]:
        """The maximal sequences of nodes of which each two bound a region with one entry and one exit.

        Two neighbors of a chain are an entry and its nearest exit; every region of the program lies between
        two nodes of one chain, so that listing the chains lists all regions. A chain that begins where
        another value forks is led by that value, which then has readers outside the regions it enters.
        """
        after: dict[fx.Node, fx.Node] = {}
        for node in self.order:
            exit_ = self.post_dominators[node]
            if exit_ is not None and self.dominators[exit_] is node:
                after[node] = exit_
        inner = set(after.values())
        for node in self.order:
            if node in inner:
                continue
            chain = [node]
            while chain[-1] in after:
                chain.append(after[chain[-1]])
            sources = self.preds[node]
            yield tuple([sources[0], *chain] if len(sources) == 1 else chain)


def _dominators(
    order: tuple[fx.Node, ...], preds: Mapping[fx.Node, tuple[fx.Node, ...]], roots: frozenset[fx.Node]
) -> dict[fx.Node, fx.Node | None]:
    """Cooper, Harvey and Kennedy's algorithm; without cycles one pass in topological order suffices."""
    place = {node: index for index, node in enumerate(order)}
    found: dict[fx.Node, fx.Node | None] = {}

    def common(a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        while a is not b:
            if a is None or b is None:
                return None
            if place[a] > place[b]:
                a = found[a]
            else:
                b = found[b]
        return a

    for node in order:
        nearest: fx.Node | None = None
        if node not in roots:
            nearest = preds[node][0]
            for source in preds[node][1:]:
                nearest = common(nearest, source)
        found[node] = nearest
    return found
