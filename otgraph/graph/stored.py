"""Operands that do not depend on the input: stored tensors, also as seen through a change of shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.graph.graph import Graph, op_name

_SHAPING = frozenset(
    {
        *("aten.view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.permute"),
        *("aten.transpose", "aten.t", "aten.alias", "aten.detach", "aten.detach_", "aten.lift_fresh_copy"),
        *("aten.clone", "aten.contiguous", "aten.flatten"),
        *("onnx.Reshape", "onnx.Unsqueeze", "onnx.Squeeze", "onnx.Flatten", "onnx.Transpose"),
        *("onnx.Identity", "onnx.Expand"),
    }
)


def stored_value(graph: Graph, operand: Any) -> torch.Tensor | None:
    """The value of ``operand`` where the program stores it, a Python number as a tensor; None where it is
    computed from an input, or by more than a change of shape."""
    if isinstance(operand, bool) or not isinstance(operand, (int, float, fx.Node)):
        return None
    if not isinstance(operand, fx.Node):
        return torch.tensor(operand, dtype=torch.float64)
    if operand.op == "get_attr":
        return graph.tensor(str(operand.target)).detach()
    if op_name(operand) not in _SHAPING or not callable(operand.target):
        return None
    sources = {source: stored_value(graph, source) for source in operand.all_input_nodes}
    if any(value is None for value in sources.values()):
        return None
    args = map_arg(operand.args, lambda node: sources[node])
    kwargs = map_arg(operand.kwargs, lambda node: sources[node])
    with torch.no_grad():
        result = operand.target(*args, **kwargs)
    return result if isinstance(result, torch.Tensor) else None
