"""fx calls → ONNX nodes."""

from __future__ import annotations

import inspect
from typing import Any, cast

import onnx
from onnx import NodeProto
from torch import fx

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, label
from otgraph.graph.onnx.attributes import write_keywords
from otgraph.graph.onnx.emit_names import Names
from otgraph.graph.onnx.emit_tensors import Tensors
from otgraph.graph.onnx.ops.table import meaning_of
from otgraph.graph.onnx.origin import OnnxOrigin
from otgraph.graph.onnx.subgraphs import rename_captured


def old_node(
    node: fx.Node, original: NodeProto, names: Names, tensors: Tensors, opsets: dict[str, int]
) -> NodeProto:
    """The file's own node, with what a rewrite changed of its arguments and attributes."""
    proto = NodeProto()
    proto.CopyFrom(original)
    args = list(node.args)
    if node.op == "call_module":
        origin = cast("OnnxOrigin", node.meta["onnx"])
        split = len(args) - len(origin.captured)
        inputs = [
            _input(a, names, tensors) or old for a, old in zip(args[:split], original.input, strict=True)
        ]
        outer = zip(origin.captured, args[split:], strict=True)
        rename_captured(proto, {old: _input(arg, names, tensors) or old for old, arg in outer})
    else:
        write_keywords(proto, dict(node.kwargs), opsets.get(proto.domain, 0))
        inputs = [_input(arg, names, tensors) for arg in args]
        inputs += [""] * (len(original.input) - len(inputs)) if not any(original.input[len(inputs) :]) else []
    proto.input[:] = inputs
    return proto


def new_node(
    graph: Graph, node: fx.Node, names: Names, tensors: Tensors, opsets: dict[str, int]
) -> NodeProto:
    """A node that a rewrite made, in the form that the file's opset has for it."""
    op = meaning_of(node.target) if node.op == "call_function" else None
    if op is None:
        called = getattr(node.target, "__name__", str(node.target))
        raise ModelError(f"{graph.name}: node {label(node)!r} calls {called}, which is no ONNX operator")
    opset = opsets.get(op.domain, 0)
    if not op.since <= opset <= op.until or not onnx.defs.has(op.op_type, opset, op.domain):
        raise ModelError(f"{graph.name}: node {label(node)!r}: opset {opset} has no such {op.op_type}")
    schema = onnx.defs.get_schema(op.op_type, opset, op.domain)
    positional, keywords = _sort_arguments(node, set(schema.attributes))
    origin = cast("OnnxOrigin | None", node.meta.get("onnx"))
    proto = NodeProto(
        op_type=op.op_type, domain=op.domain, name=names.take_title(origin.name if origin else node.name)
    )
    proto.input.extend(_input(arg, names, tensors) for arg in positional)
    write_keywords(proto, keywords, opset)
    return proto


def same_node(proto: NodeProto, original: NodeProto) -> bool:
    """Whether two nodes differ in nothing but the names of their outputs."""
    copy = NodeProto()
    copy.CopyFrom(proto)
    del copy.output[:]
    copy.output.extend(original.output)
    return copy == original


def _sort_arguments(node: fx.Node, attributes: set[str]) -> tuple[list[Any], dict[str, Any]]:
    """Some arguments are attributes in one opset and inputs in another: the schema says which."""
    keywords = {name: value for name, value in node.kwargs.items() if value is not None}
    parameters = list(inspect.signature(cast("Any", node.target)).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return list(node.args), keywords
    inputs: list[Any] = []
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    for place, name in enumerate(places):
        value = node.args[place] if place < len(node.args) else keywords.pop(name, None)
        if name in attributes and not isinstance(value, fx.Node):
            if value is not None:
                keywords[name] = value
            value = None
        inputs.append(value)
    while inputs and inputs[-1] is None:
        inputs.pop()
    return inputs, keywords


def _input(arg: Any, names: Names, tensors: Tensors) -> str:
    if arg is None:
        return ""
    return names.values[arg] if isinstance(arg, fx.Node) else tensors.literal(arg)
