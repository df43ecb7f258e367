"""Values that the subgraphs of a node take from around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


def captured_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names read inside the subgraphs of ``node`` and defined outside them, in order of first use."""
    found: dict[str, None] = {}
    for graph in subgraphs(node):
        found.update(dict.fromkeys(_free(graph)))
    return tuple(found)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among the attributes of ``node``."""
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a file and the graphs inside it, in functions too."""
    yield model.graph
    yield from _inner_graphs(model.graph.node)
    for function in model.functions:
        yield from _inner_graphs(function.node)


def rename_captured(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Make the subgraphs of ``node`` read their outer values under new names (old → new), in place."""
    for graph in subgraphs(node):
        outer = {old: new for old, new in names.items() if old not in _defined(graph)}
        for inner in graph.node:
            inner.input[:] = [outer.get(name, name) for name in inner.input]
            rename_captured(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)


def _inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for graph in subgraphs(node):
            yield graph
            yield from _inner_graphs(graph.node)


def _free(graph: onnx.GraphProto) -> list[str]:
    defined = _defined(graph)
    read = [name for node in graph.node for name in (*node.input, *captured_names(node))]
    read += [output.name for output in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in defined]


def _defined(graph: onnx.GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {sparse.values.name for sparse in graph.sparse_initializer}
    return made | stored | {value.name for value in graph.input}
