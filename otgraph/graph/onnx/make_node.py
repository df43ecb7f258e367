"""Making new nodes of the ``onnx`` dialect in a rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from otgraph.graph.graph import Graph
from otgraph.graph.onnx.naming import fresh, identifier
from otgraph.graph.onnx.ops.table import Function, meaning_of
from otgraph.graph.onnx.origin import OnnxOrigin


def make_node(
    graph: Graph,
    function: Function,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    name: str = "",
) -> fx.Node:
    """A call of an operator's function at the insertion point of ``graph.module.graph``.

    Positional arguments are the ONNX inputs (numbers and lists among them become constants: int64, or
    float32 where there is a float), keywords the attributes; where one opset has an input and another an
    attribute, the emitter writes what the file's opset has. ``name`` is the wanted ONNX name; it is
    made unique.

    Raises:
        ValueError: ``function`` is not the torch function of an operator.
    """
    op = meaning_of(function)
    if op is None:
        raise ValueError(
            f"{getattr(function, '__name__', function)}: is not the function of an ONNX operator"
        )
    known = {node.meta["onnx"].name for node in graph.module.graph.nodes if "onnx" in node.meta}
    title = fresh(name or op.op_type, known.__contains__)
    node = graph.module.graph.create_node(
        "call_function", function, tuple(args), dict(kwargs or {}), identifier(title)
    )
    node.meta["onnx"] = OnnxOrigin(op.op_type, op.domain, title)
    return node
