"""Which ONNX name each value of a program gets: the file's own wherever it is still free."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import cast

from onnx import NodeProto
from torch import fx

from otgraph.graph.graph import Graph
from otgraph.graph.onnx.header import OnnxHeader, plain_domain
from otgraph.graph.onnx.naming import fresh
from otgraph.graph.onnx.ops.table import TUPLES, meaning_of
from otgraph.graph.onnx.origin import OnnxOrigin
from otgraph.graph.onnx.subgraphs import subgraphs


@dataclass
class Names:
    """``values``: node → name of its value; ``outputs``: call → all its output names; ``originals``: call →
    the node of the file that it still is; ``items``: ``getitem`` nodes; ``tensors``: program tensor → name;
    ``copies``: outputs of the graph that need an Identity, as (source, name); ``taken``: all names of values
    in use; ``titles``: all names of nodes."""

    values: dict[fx.Node, str] = field(default_factory=dict[fx.Node, str])
    outputs: dict[fx.Node, list[str]] = field(default_factory=dict[fx.Node, list[str]])
    originals: dict[fx.Node, NodeProto] = field(default_factory=dict[fx.Node, NodeProto])
    items: set[fx.Node] = field(default_factory=set[fx.Node])
    tensors: dict[str, str] = field(default_factory=dict[str, str])
    copies: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    taken: set[str] = field(default_factory=set[str])
    titles: set[str] = field(default_factory=set[str])

    def take(self, wanted: str) -> str:
        """``wanted`` or, if that is in use, one like it."""
        name = fresh(wanted, self.taken.__contains__)
        self.taken.add(name)
        return name

    def take_title(self, wanted: str) -> str:
        """As ``take``, for the name of a node."""
        name = fresh(wanted, self.titles.__contains__)
        self.titles.add(name)
        return name


def assign_names(graph: Graph, header: OnnxHeader) -> Names:
    """Names for every value, in this order of precedence: inputs, stored tensors, outputs of the graph, nodes
    of the file in program order, and last what a rewrite added."""
    names, nodes = Names(), list(graph.module.graph.nodes)
    file = header.model.graph
    names.taken.update(value.name for value in file.input)
    names.taken.update(tensor.name for tensor in file.initializer)
    names.taken.update(sparse.values.name for sparse in file.sparse_initializer)
    names.taken.update(name for node in file.node for name in _inner_names(node))
    names.titles.update(node.name for node in file.node)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    for node, port in zip(placeholders, graph.signature.inputs, strict=True):
        names.values[node] = port.name
    _name_tensors(nodes, header, names)
    _find_originals(nodes, header, names)
    wanted = _output_names(graph, nodes[-1], names)
    calls = [
        node for node in nodes if node.op in ("call_function", "call_module") and node not in names.items
    ]
    for node in sorted(calls, key=lambda n: n not in names.originals):
        _name_outputs(node, wanted, names)
    for node, name in _pending_copies(graph, nodes[-1], names):
        names.copies.append((names.values[node], name))
    return names


def _inner_names(node: NodeProto) -> set[str]:
    found: set[str] = set()
    for graph in subgraphs(node):
        found.update(value.name for value in graph.input)
        found.update(tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            found.update(inner.output)
            found |= _inner_names(inner)
    return found


def _name_tensors(nodes: list[fx.Node], header: OnnxHeader, names: Names) -> None:
    reads = [node for node in nodes if node.op == "get_attr"]
    known = [node for node in reads if str(node.target) in header.tensors]
    for node in known:
        name = header.tensors[str(node.target)]
        names.tensors[str(node.target)] = names.values[node] = name
        names.taken.add(name)
    for node in reads:
        target = str(node.target)
        if target not in names.tensors:
            names.tensors[target] = names.take(target)
        names.values[node] = names.tensors[target]


def _find_originals(nodes: list[fx.Node], header: OnnxHeader, names: Names) -> None:
    """A call is still a node of the file if it remembers which and computes the same operator."""
    used: set[int] = set()
    for node in nodes:
        if node.op == "call_function" and node.target is operator.getitem:
            names.items.add(node)
            continue
        origin = cast("OnnxOrigin | None", node.meta.get("onnx"))
        if origin is None or origin.index is None or origin.index in used:
            continue
        proto = header.model.graph.node[origin.index]
        op = meaning_of(node.target)
        if node.op == "call_module" or (
            op and (op.domain, op.op_type) == (plain_domain(proto.domain), proto.op_type)
        ):
            used.add(origin.index)
            names.originals[node] = proto


def _output_names(graph: Graph, output: fx.Node, names: Names) -> dict[tuple[fx.Node, int], str]:
    """Names that the outputs of the graph force on (call, output number)."""
    wanted: dict[tuple[fx.Node, int], str] = {}
    for value, port in zip(cast("tuple[fx.Node, ...]", output.args[0]), graph.signature.outputs, strict=True):
        names.taken.add(port.name)
        if value.op in ("call_function", "call_module"):
            wanted.setdefault(_maker(value, names), port.name)
    return wanted


def _maker(value: fx.Node, names: Names) -> tuple[fx.Node, int]:
    if value in names.items:
        return cast("fx.Node", value.args[0]), int(cast("int", value.args[1]))
    return value, 0


def _name_outputs(node: fx.Node, wanted: dict[tuple[fx.Node, int], str], names: Names) -> None:
    original = names.originals.get(node)
    items = [user for user in node.users if user in names.items]
    if original is not None:
        hopes = list(original.output)
    elif _is_tuple(node):
        hopes = [f"{node.name}_{i}" for i in range(_count(node, items))]
    else:
        hopes = [node.name]
    outputs = [
        wanted[node, i] if (node, i) in wanted else (names.take(hope) if hope else "")
        for i, hope in enumerate(hopes)
    ]
    names.outputs[node] = outputs
    names.values[node] = outputs[0]
    for item in items:
        names.values[item] = outputs[int(cast("int", item.args[1]))]


def _is_tuple(node: fx.Node) -> bool:
    op = meaning_of(node.target)
    return node.op == "call_module" or (op is not None and op.op_type in TUPLES)


def _count(node: fx.Node, items: list[fx.Node]) -> int:
    """How many outputs a new node has: as its operator or its arguments say, or as many as are read."""
    op = meaning_of(node.target)
    if op is not None and op.op_type == "TopK":
        return 2
    read = max((int(cast("int", item.args[1])) + 1 for item in items), default=1)
    if op is not None and op.op_type != "Split":
        return read
    sizes = node.args[1] if len(node.args) > 1 else node.kwargs.get("split")
    if isinstance(sizes, (list, tuple)):
        return len(sizes)
    said = node.kwargs.get("num_outputs")
    return said if isinstance(said, int) else read


def _pending_copies(graph: Graph, output: fx.Node, names: Names) -> list[tuple[fx.Node, str]]:
    values = cast("tuple[fx.Node, ...]", output.args[0])
    pairs = zip(values, graph.signature.outputs, strict=True)
    return list(
        dict.fromkeys((value, port.name) for value, port in pairs if names.values[value] != port.name)
    )
