"""``Graph`` of the ``onnx`` dialect → ONNX: what a rewrite left alone is written as it was read."""

from __future__ import annotations

import onnx
import torch
from onnx import NodeProto
from torch import fx

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.copy_fields import copy_fields
from otgraph.graph.onnx.emit_names import Names, assign_names
from otgraph.graph.onnx.emit_nodes import new_node, old_node, same_node
from otgraph.graph.onnx.emit_tensors import Tensors
from otgraph.graph.onnx.header import OnnxHeader

_DECIDED = {
    "node",
    "initializer",
    "sparse_initializer",
    "input",
    "value_info",
    "quantization_annotation",
}
"""Fields of a graph that are written anew; the others are copied."""


def emit_model(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of ``graph``. Untouched tensors that the file kept outside still point there.

    Raises:
        ModelError: the graph was not read from ONNX, or calls a function that is no ONNX operator.
    """
    return _Emission(graph, _header(graph), None).model()


def emit_beside(graph: Graph) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
    """As ``emit_model``, for weights that protobuf could not hold: the initializers of large tensors with a
    new value have no data; the tensors themselves come by name.

    Raises:
        ModelError: as ``emit_model``.
    """
    held: dict[str, torch.Tensor] = {}
    return _Emission(graph, _header(graph), held).model(), held


def _header(graph: Graph) -> OnnxHeader:
    if not isinstance(graph.header, OnnxHeader):
        raise ModelError(f"{graph.name}: was not read from an ONNX file; save it instead of emitting it")
    return graph.header


class _Emission:
    """One pass over the program. ``_clean``: values whose shape and type are surely the file's."""

    def __init__(self, graph: Graph, header: OnnxHeader, held: dict[str, torch.Tensor] | None) -> None:
        self._graph, self._header = graph, header
        self._names: Names = assign_names(graph, header)
        self._tensors = Tensors(graph, header, self._names, held)
        self._nodes: list[NodeProto] = []
        self._clean: set[fx.Node] = set()
        self._true_names: set[str] = set()

    def model(self) -> onnx.ModelProto:
        for node in self._graph.module.graph.nodes:
            if node.op == "placeholder":
                self._clean.add(node)
            elif node.op == "get_attr":
                self._read(node)
            elif node.op in ("call_function", "call_module") and node not in self._names.items:
                self._call(node)
            elif node in self._names.items and node.args[0] in self._clean:
                self._clean.add(node)
        for source, name in self._names.copies:
            self._nodes.append(onnx.helper.make_node("Identity", [source], [name], name=f"{name}_output"))
        return self._assemble()

    def _read(self, node: fx.Node) -> None:
        self._nodes += self._tensors.read(str(node.target))
        if self._tensors.keeps_type(str(node.target)):
            self._clean.add(node)
            self._true_names.add(self._names.values[node])

    def _call(self, node: fx.Node) -> None:
        opsets = self._header.opsets
        original = self._names.originals.get(node)
        outputs = self._names.outputs[node]
        if original is None:
            proto = new_node(self._graph, node, self._names, self._tensors, opsets)
        else:
            proto = old_node(node, original, self._names, self._tensors, opsets)
        del proto.output[:]
        proto.output.extend(outputs)
        self._nodes.append(proto)
        clean = original is not None and same_node(proto, original)
        if clean and all(read in self._clean for read in node.all_input_nodes):
            self._clean.add(node)
            self._true_names.update(outputs)

    def _assemble(self) -> onnx.ModelProto:
        source, out = self._header.model, onnx.ModelProto()
        copy_fields(source, out, {"graph"})
        copy_fields(source.graph, out.graph, _DECIDED)
        out.graph.node.extend(self._tensors.nodes_needed(self._nodes))
        out.graph.initializer.extend(self._tensors.initializers(self._nodes))
        out.graph.sparse_initializer.extend(self._tensors.sparse(self._nodes))
        out.graph.input.extend(self._inputs(out.graph))
        now, once = _defined(out.graph), _defined(source.graph)
        true = (self._true_names | self._tensors.untouched()) & now
        # of names that the file itself does not define nothing is known: they stay as they are
        out.graph.value_info.extend(
            v for v in source.graph.value_info if v.name in true or v.name not in now | once
        )
        notes = source.graph.quantization_annotation
        out.graph.quantization_annotation.extend(
            note for note in notes if note.tensor_name in now or note.tensor_name not in once
        )
        return out

    def _inputs(self, graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
        """The inputs, and where the file lists them there, the initializers (an old IR requires it)."""
        stored = {tensor.name: tensor for tensor in graph.initializer}
        old = {tensor.name for tensor in self._header.model.graph.initializer}
        found: list[onnx.ValueInfoProto] = []
        for value in self._header.model.graph.input:
            if value.name in old and value.name not in stored:
                continue
            found.append(_typed_like(value, stored[value.name]) if value.name in stored else value)
        if self._header.model.ir_version < 4:
            listed = {value.name for value in found}
            for tensor in graph.initializer:
                if tensor.name not in listed:
                    found.append(
                        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                    )
        return found


def _typed_like(value: onnx.ValueInfoProto, tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type
    if [dim.dim_value for dim in kind.shape.dim] == list(tensor.dims) and kind.elem_type == tensor.data_type:
        return value
    if not kind.HasField("shape") and kind.elem_type == tensor.data_type:
        return value
    return onnx.helper.make_tensor_value_info(value.name, tensor.data_type, tensor.dims, value.doc_string)


def _defined(graph: onnx.GraphProto) -> set[str]:
    """The names of the inputs, the stored tensors, and what the nodes make."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names |= {sparse.values.name for sparse in graph.sparse_initializer}
    return names | {name for node in graph.node for name in node.output}
