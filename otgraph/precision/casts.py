"""What the converter's casts leave to be mended: detours through float16, and what bodies read."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass

FULL, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def mend_casts(model: onnx.ModelProto, original: Collection[str]) -> onnx.ModelProto:
    """``model`` with float32 handed on as it is from one float32 node to the next, in topological order.

    ``original``: the names of the nodes that were there before the conversion; the casts among the others go.
    The converter casts every value to float16 and back, which loses what float16 cannot hold.
    """
    held = ir.from_proto(model)
    _feed_bodies(held.graph)
    TopologicalSortPass()(held)
    inserted = [node for node in held.graph if node.op_type == "Cast" and node.name not in original]
    for back in inserted:
        value = back.inputs[0]
        there = None if value is None else value.producer()
        if there in inserted and _target(back) is FULL and _target(there) is HALF:
            _bypass(held.graph, back, there)
    for node in reversed(inserted):  # what reads a cast before the cast
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            held.graph.remove(node, safe=True)
    return ir.to_proto(held)


def _target(node: ir.Node | None) -> ir.DataType | None:
    return None if node is None else ir.DataType(node.attributes["to"].as_int())


def _bypass(graph: ir.Graph, back: ir.Node, there: ir.Node) -> None:
    """Everything that reads ``back`` reads what ``there`` does, which is the same before it was rounded."""
    source, result = there.inputs[0], back.outputs[0]
    assert source is not None
    if result.is_graph_output():
        if source.producer() is None or source.is_graph_output():  # an output needs a name of its own
            back.replace_input_with(0, source)
            return
        name, index = result.name, list(graph.outputs).index(result)
        graph.outputs[index] = source
        source.type, source.shape = result.type, result.shape
        result.name = f"{name}_through_float16"
        source.name = name
    ir.convenience.replace_all_uses_with(result, source)


def _feed_bodies(graph: ir.Graph) -> None:
    """Bodies of control flow stay in float32: what they read of the graph around them is cast for them."""
    for node in list(graph):
        casts: dict[str, ir.Value] = {}
        for inner in _inner(node):
            for index, value in enumerate(inner.inputs):
                if value is None or value.dtype is not HALF or value.graph is not graph:
                    continue
                key = str(value.name)
                if key not in casts:
                    cast = ir.node("Cast", [value], {"to": FULL}, name=f"{key}_for_{node.name}")
                    cast.outputs[0].name = f"{key}_for_{node.name}"
                    cast.outputs[0].dtype = FULL
                    graph.insert_before(node, cast)
                    casts[key] = cast.outputs[0]
                inner.replace_input_with(index, casts[key])


def _inner(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from ir.traversal.RecursiveGraphIterator(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield from ir.traversal.RecursiveGraphIterator(body)
