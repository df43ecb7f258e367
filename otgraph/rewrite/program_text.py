"""A graph as text, one line per operator: what golden tests compare and manual pages show."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from otgraph.graph.graph import Graph, op_name


def program_text(graph: Graph) -> str:
    """The program with its weights' shapes, without their values: ``relu = aten.relu(conv2d)``."""
    lines: list[str] = []
    for node in graph.module.graph.nodes:
        if node.op == "get_attr":
            continue
        if node.op == "placeholder":
            lines.append(f"input {node.name}")
        elif node.op == "output":
            lines.append(f"return {', '.join(_value(graph, leaf) for leaf in node.args[0])}")
        else:
            lines.append(f"{node.name} = {op_name(node)}({', '.join(_arguments(graph, node))})")
    return "\n".join(lines)


def _arguments(graph: Graph, node: fx.Node) -> list[str]:
    positional = [_value(graph, value) for value in node.args]
    return positional + [f"{key}={_value(graph, value)}" for key, value in node.kwargs.items()]


def _value(graph: Graph, value: Any) -> str:
    if isinstance(value, fx.Node):
        return _tensor(graph, str(value.target)) if value.op == "get_attr" else value.name
    if isinstance(value, (list, tuple)):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]  (fx arguments are untyped)
        return "[" + ", ".join(_value(graph, item) for item in items) + "]"
    return str(value)


def _tensor(graph: Graph, name: str) -> str:
    tensor = graph.tensor(name)
    shape = ", ".join(str(size) for size in tensor.shape)
    dtype = "" if tensor.dtype == torch.float32 else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{name}[{shape}]{dtype}"
