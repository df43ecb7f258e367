"""Shapes and dtypes of every value, by running the program once on its example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.graph.graph import Graph


@dataclass(frozen=True)
class ValueInfo:
    """Shape and dtype of one tensor as the example inputs produce it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def value_infos(graph: Graph) -> dict[fx.Node, ValueInfo]:
    """Node → what it returns, for the nodes that return one tensor. Only rank and dtype, and sizes that the
    signature fixes, hold for every input."""
    recorder = _Recorder(graph.module)
    with torch.no_grad():
        recorder.run(*graph.example)
    return recorder.found


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, ValueInfo] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.found[n] = ValueInfo(tuple(value.shape), value.dtype)
        return value
