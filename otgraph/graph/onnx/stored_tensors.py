"""The tensors that an ONNX file stores: where they are, and how many bytes each says that it has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, helper

_PACKED = {
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("UINT2", "INT2"), 2),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
}
"""Types of which several share a byte → bits of each."""


def stored_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a file: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def bits_each(data_type: int) -> int:
    """Bits of one number of this type; 0 for text, and where there is no such type."""
    if data_type == TensorProto.STRING or data_type not in helper.get_all_tensor_dtypes():
        return 0
    packed = _PACKED.get(TensorProto.DataType.Name(data_type))
    return packed or helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8


def data_bytes(tensor: TensorProto) -> int:
    """The bytes of the numbers of ``tensor``, by its type and dims."""
    return -(-math.prod(tensor.dims) * bits_each(tensor.data_type) // 8)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            alone = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*alone, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)
