"""``LayerGraph``: the paths of a network, and how many layers are on the longest once options are chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from otgraph.allocate.option import Option


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
