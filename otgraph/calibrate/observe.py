"""Running a graph while looking at some of its values, each freed after its last use."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.feeds import Feed
from otgraph.graph.graph import Graph

Look = Callable[[str, torch.Tensor], None]


def observe(graph: Graph, inputs: Feed, names: Collection[str], look: Look) -> tuple[torch.Tensor, ...]:
    """Call ``graph`` and show ``look`` each value named in ``names`` when it is made; returns the outputs.

    ``look`` must not keep the tensor: later nodes may free it. Values are freed at their last use, so the
    memory is that of the widest cut through the graph for one batch.
    """
    with torch.no_grad():
        return _Watcher(graph.module, frozenset(names), look).run(*inputs)


class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, names: frozenset[str], look: Look) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self._names = names
        self._look = look

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, torch.Tensor):
            self._look(n.name, value)
        return value
