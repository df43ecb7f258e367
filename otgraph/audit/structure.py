"""What a model file consists of: bytes, and of an ONNX file parameters, MACs, nodes, depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import uses_external_data

from otgraph.audit.changes import NodeRef
from otgraph.audit.macs import is_compute, macs_of
from otgraph.audit.shapes import infer, read_model, run_for_shapes
from otgraph.data import Array

INDEX_TYPES = frozenset(
    {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
)


@dataclass(frozen=True)
class Structure:
    """``nodes`` and ``ops`` leave out Constant nodes, which hold data and run nothing.

    ``parameters`` counts the elements of all constant tensors but int32, int64, bool and string ones
    (shapes and indices). ``macs`` are for the feeds given; ``not_counted`` says how many nodes of which op
    do arithmetic that is missing from it. ``depth`` is the longest chain of nodes, ``compute_depth``
    the longest counting only convolutions, matrix products and their like. ``listing`` has every node, in
    the file's order, and ``metadata`` the file's own. Of an engine's own file only ``bytes`` can be told;
    the others are None.
    """

    bytes: int
    parameters: int | None = None
    macs: int | None = None
    nodes: int | None = None
    depth: int | None = None
    compute_depth: int | None = None
    ops: Mapping[str, int] = field(default_factory=dict[str, int])
    not_counted: Mapping[str, int] = field(default_factory=dict[str, int])
    listing: tuple[NodeRef, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name; not ``listing``, of which ``Changes`` tells what matters, nor
        ``metadata``."""
        fields = {**vars(self), "ops": dict(self.ops), "not_counted": dict(self.not_counted)}
        return {name: value for name, value in fields.items() if name not in ("listing", "metadata")}


def structure(path: Path, feeds: Mapping[str, Array]) -> Structure:
    """Read ``path`` and count, with the inputs' shapes taken from ``feeds``. Raises ``ModelError``."""
    if path.suffix != ".onnx":
        beside = path.with_suffix(".bin")  # where OpenVINO keeps the weights
        return Structure(path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0))
    model = read_model(path, with_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    shapes = infer(model, feeds)
    shapes.update((name, tuple(tensor.dims)) for name, tensor in _constant_nodes(model.graph))
    wanted = {name for node in nodes if is_compute(node) for name in (*node.input, *node.output) if name}
    missing = sorted(wanted - shapes.keys())
    if missing:
        shapes.update(run_for_shapes(path, feeds, missing))
    macs = [macs_of(node, shapes) for node in nodes]
    uncounted = Counter(node.op_type for node, count in zip(nodes, macs, strict=True) if count is None)
    return Structure(
        bytes=path.stat().st_size + _external_bytes(path, model),
        parameters=sum(prod(t.dims) for t in _constants(model.graph) if t.data_type not in INDEX_TYPES),
        macs=sum(count or 0 for count in macs),
        nodes=len(nodes),
        depth=_longest_chain(nodes, lambda _: 1),
        compute_depth=_longest_chain(nodes, lambda node: int(is_compute(node))),
        ops=dict(sorted(Counter(node.op_type for node in nodes).items())),
        not_counted=dict(sorted(uncounted.items())),
        listing=tuple(map(_reference, nodes)),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _reference(node: onnx.NodeProto) -> NodeRef:
    name = node.name or next(filter(None, node.output), "")
    return NodeRef(name, node.op_type, is_compute(node))


def _constant_nodes(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The tensors held by Constant nodes, by the name of their output."""
    for node in graph.node:
        if node.op_type == "Constant":
            for item in node.attribute:
                if item.name == "value":
                    yield node.output[0], item.t


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constant tensors, those of nested graphs included."""
    yield from graph.initializer
    yield from (tensor for _, tensor in _constant_nodes(graph))
    for node in graph.node:
        for item in node.attribute:
            if item.type == onnx.AttributeProto.GRAPH:
                yield from _constants(item.g)


def _external_bytes(path: Path, model: onnx.ModelProto) -> int:
    """The size of the files that hold the model's external data."""
    places = {
        entry.value
        for tensor in _constants(model.graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path.parent / place for place in places]
    return sum(file.stat().st_size for file in files if file.is_file())


def _longest_chain(nodes: list[onnx.NodeProto], weight: Any) -> int:
    """The heaviest path through the nodes; ONNX lists them in topological order."""
    depth: dict[str, int] = {}
    longest = 0
    for node in nodes:
        here = max((depth.get(name, 0) for name in _reads(node)), default=0) + weight(node)
        depth.update((name, here) for name in node.output if name)
        longest = max(longest, here)
    return longest


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names a node reads, those its nested graphs take from outside included."""
    yield from (name for name in node.input if name)
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            for inner in item.g.node:
                yield from _reads(inner)
