"""Stored tensors of a program → initializers and Constant nodes; untouched ones keep their bytes and form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from onnx import NodeProto, SparseTensorProto, TensorProto

from otgraph.graph.graph import Graph
from otgraph.graph.onnx.constants import constant_value
from otgraph.graph.onnx.emit_names import Names
from otgraph.graph.onnx.header import OnnxHeader
from otgraph.graph.onnx.subgraphs import captured_names
from otgraph.graph.onnx.tensors import (
    ONNX_TYPES,
    TORCH_TYPES,
    from_torch,
    same_bits,
    sparse_to_torch,
    to_torch,
)

_SMALL = 2**16
"""Tensors of the file up to this many elements (shapes, scales) are read once; a large one is not kept."""


class Tensors:
    """What is stored, decided tensor by tensor as the program reads them.

    ``held``: where given, large tensors with a new value are put there by name, and their protos are empty.
    """

    def __init__(
        self, graph: Graph, header: OnnxHeader, names: Names, held: dict[str, torch.Tensor] | None
    ) -> None:
        self._graph, self._header, self._names, self._held = graph, header, names, held
        self._file = {proto.name: proto for proto in header.model.graph.initializer}
        self._sparse = {proto.values.name: proto for proto in header.model.graph.sparse_initializer}
        self._makers = {
            header.model.graph.node[i].output[0]: header.model.graph.node[i]
            for i in header.constants.values()
        }
        self._old: dict[str, torch.Tensor | None] = {}
        self._kept: set[str] = set()
        self._new: dict[str, TensorProto] = {}
        self._literals: dict[str, str] = {}
        self._seen: set[str] = set()
        self._typed: set[str] = set()

    def read(self, target: str) -> list[NodeProto]:
        """The nodes to write where the program first reads ``target``: its Constant, or none."""
        if target in self._seen:
            return []
        self._seen.add(target)
        name, value = self._names.tensors[target], self._graph.tensor(target)
        old = self._original(self._header.tensors[target]) if target in self._header.tensors else None
        if (
            old is not None
            and old.dtype == value.dtype
            and old.shape == value.shape
            and value.is_floating_point()
        ):
            self._typed.add(target)
        if old is None or not same_bits(old, value) or not self._makeable(target):
            self._new[name] = self._written(value, name)
            return []
        self._typed.add(target)
        if target not in self._header.constants:
            self._kept.add(name)
            return []
        return [self._header.model.graph.node[self._header.constants[target]]]

    def keeps_type(self, target: str) -> bool:
        """Whether ``target`` has not changed any shape: no shape tensor its value, no weight its size."""
        return target in self._typed

    def literal(self, value: Any) -> str:
        """The name of a constant for a number or list among a new node's arguments."""
        tensor = literal_tensor(value)
        key = repr((tensor.dtype, value))
        if key not in self._literals:
            name = self._names.take("constant")
            self._new[name] = from_torch(tensor, name)
            self._literals[key] = name
        return self._literals[key]

    def nodes_needed(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """``nodes``, and before them the constants that only other constants read."""
        made = {name for node in nodes for name in node.output} | self._kept | self._new.keys()
        missing = {name for node in nodes for name in node.input if name in self._makers and name not in made}
        return [self._makers[name] for name in self._makers if name in missing] + nodes

    def initializers(self, nodes: list[NodeProto]) -> list[TensorProto]:
        """The file's, in its order, then the new ones. One that the program never read stays unless all nodes
        that read it in the file are gone."""
        stays = self._staying(nodes)
        found = [
            self._new.get(name, proto)
            for name, proto in self._file.items()
            if name in self._new or stays(name)
        ]
        return found + [proto for name, proto in self._new.items() if name not in self._file]

    def sparse(self, nodes: list[NodeProto]) -> list[SparseTensorProto]:
        """The file's sparse initializers; one with a new value is dense, among ``initializers``."""
        stays = self._staying(nodes)
        return [p for name, p in self._sparse.items() if name not in self._new and stays(name)]

    def _staying(self, nodes: list[NodeProto]) -> Callable[[str], bool]:
        read, once = _read_by(nodes), _read_by(self._header.model.graph.node)
        programmed = set(self._header.tensors.values())
        return lambda name: (
            name in self._kept or name in read or (name not in programmed and name not in once)
        )

    def untouched(self) -> set[str]:
        """Names of the initializers that are the file's own."""
        return {*self._file, *self._sparse} - set(self._new)

    def _written(self, value: torch.Tensor, name: str) -> TensorProto:
        if self._held is None or value.numel() <= _SMALL:
            return from_torch(value, name)
        self._held[name] = value
        return TensorProto(name=name, data_type=ONNX_TYPES[value.dtype], dims=list(value.shape))

    def _makeable(self, target: str) -> bool:
        """Whether the node that made a constant still would: the stored shape it reads is the file's."""
        if target not in self._header.constants:
            return True
        inputs = self._header.model.graph.node[self._header.constants[target]].input
        readers = [
            t for t, name in self._header.tensors.items() if name in inputs and t in self._names.tensors
        ]
        olds = [(self._original(self._header.tensors[t]), self._graph.tensor(t)) for t in readers]
        return all(old is not None and same_bits(old, now) for old, now in olds)

    def _original(self, name: str) -> torch.Tensor | None:
        if name in self._old:
            return self._old[name]
        value = self._load(name)
        if value is None or value.numel() <= _SMALL:
            self._old[name] = value
        return value

    def _load(self, name: str) -> torch.Tensor | None:
        if name in self._makers:
            maker, stored = self._makers[name], dict[str, torch.Tensor]()
            for read in maker.input:
                known = self._original(read)
                if known is not None:
                    stored[read] = known
            return constant_value(maker, stored, self._header.folder)
        if name in self._sparse:
            return sparse_to_torch(self._sparse[name], self._header.folder)
        proto = self._file[name]
        return to_torch(proto, self._header.folder) if proto.data_type in TORCH_TYPES else None


def _read_by(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in (*node.input, *captured_names(node))}


def literal_tensor(value: Any) -> torch.Tensor:
    """A number or list as the constant it means: integers are int64, anything with a float float32."""
    flat = list(value) if isinstance(value, (list, tuple)) else [value]
    if flat and all(isinstance(v, bool) for v in flat):
        return torch.tensor(value)
    kind = torch.float32 if any(isinstance(v, float) for v in flat) else torch.int64
    return torch.tensor(value, dtype=kind)
