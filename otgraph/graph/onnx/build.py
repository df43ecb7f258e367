"""The fx graph of an ONNX graph, before it has run: one node for each node."""

from __future__ import annotations

import inspect
import keyword
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto
from torch import fx

from otgraph.errors import ModelError
from otgraph.graph.onnx.attributes import to_keywords
from otgraph.graph.onnx.constants import constant_value, holdable
from otgraph.graph.onnx.header import OnnxHeader, plain_domain
from otgraph.graph.onnx.naming import TensorNames, fresh, identifier
from otgraph.graph.onnx.opaque import OrtOp
from otgraph.graph.onnx.ops.table import TUPLES, Function, function_of
from otgraph.graph.onnx.origin import OnnxOrigin
from otgraph.graph.onnx.subgraphs import captured_names
from otgraph.graph.onnx.tensors import put_tensor, sparse_to_torch, to_torch
from otgraph.graph.onnx.uninterpreted import Uninterpreted, stand_in
from otgraph.remark import Remark


class Builder:
    """Walks the nodes of a file once. ``root`` holds tensors and opaque modules, ``remarks`` what to know."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None, where: str) -> None:
        self.root = torch.nn.Module()
        self.remarks: list[Remark] = []
        self._model, self._folder, self._where = model, folder, where
        self._graph = fx.Graph()
        self._values: dict[str, fx.Node] = {}
        self._stored: dict[str, torch.Tensor] = {}
        self._unheld: dict[str, TensorProto] = {}
        self._waiting: dict[str, str] = {}
        self._names = TensorNames()
        self._tensors: dict[str, str] = {}
        self._constants: dict[str, int] = {}
        self._opsets = OnnxHeader(model).opsets
        self._functions = {(plain_domain(f.domain), f.name) for f in model.functions}
        self._read = _read_names(model.graph)

    def build(self) -> fx.Graph:
        """The whole program, with a flat tuple as its output."""
        graph = self._model.graph
        self._initializers()
        stored = self._stored.keys() | self._unheld.keys()
        for value in graph.input:
            if value.name not in stored:
                self._values[value.name] = self._graph.placeholder(self._parameter(value.name))
        for index, node in enumerate(graph.node):
            self._node(index, node)
        self._graph.output(tuple(self._value(output.name, "the graph outputs") for output in graph.output))
        return self._graph

    def header(self) -> OnnxHeader:
        """What the emitter needs besides the program."""
        external = any(t.data_location == TensorProto.EXTERNAL for t in self._model.graph.initializer)
        return OnnxHeader(self._model, self._folder, self._tensors, self._constants, external)

    def make_opaque(self, node: fx.Node) -> None:
        """Turn a call of a torch function into one of ONNX Runtime, in place."""
        origin: OnnxOrigin = node.meta["onnx"]
        assert origin.index is not None
        single = origin.op_type not in TUPLES
        module, args = self._opaque(self._model.graph.node[origin.index], origin)
        node.op, node.target, node.args, node.kwargs = "call_module", module, args, {}
        if single:
            users = list(node.users)
            with node.graph.inserting_after(node):
                first = node.graph.call_function(operator.getitem, (node, 0))
            for user in users:
                user.replace_input_with(node, first)

    def opaque_module(self, target: str) -> torch.nn.Module:
        """The module that ``make_opaque`` made last under this name."""
        return self.root.get_submodule(target)

    def uninterpreted(self, node: fx.Node, read: Sequence[Any], sizes: Mapping[str, int]) -> Uninterpreted:
        """What takes the place of the module that an opaque ``node`` calls; arguments as in ``stand_in``.

        Raises:
            ModelError: not enough is declared.
        """
        origin: OnnxOrigin = node.meta["onnx"]
        assert origin.index is not None
        return stand_in(self._model.graph.node[origin.index], self._model, read, sizes)

    def _parameter(self, name: str) -> str:
        """A name for a parameter of the Python function that fx writes, unlike the others."""
        clean = identifier(name)
        taken = {str(node.target) for node in self._values.values()}
        return fresh(f"{clean}_" if keyword.iskeyword(clean) else clean, taken.__contains__)

    def _initializers(self) -> None:
        for proto in self._model.graph.initializer:
            if holdable(proto):
                self._stored[proto.name] = to_torch(proto, self._folder)
                self._waiting[proto.name] = proto.name
            else:
                self._unheld[proto.name] = proto
        for sparse in self._model.graph.sparse_initializer:
            name = sparse.values.name
            if not holdable(sparse.values):
                raise ModelError(
                    f"{self._where}: {name!r} is sparse, of a type that cannot be held; convert it"
                )
            self._stored[name] = sparse_to_torch(sparse, self._folder)
            self._waiting[name] = name

    def _node(self, index: int, node: NodeProto) -> None:
        constant = constant_value(node, self._stored, self._folder)
        if constant is not None:
            self._stored[node.output[0]] = constant
            target = self._store(node.output[0])
            self._constants[target] = index
            return
        captured = captured_names(node)
        origin = OnnxOrigin(
            node.op_type,
            plain_domain(node.domain),
            node.name,
            node.overload,
            tuple(node.output),
            node.doc_string or None,
            {entry.key: entry.value for entry in node.metadata_props},
            index,
            captured,
        )
        call = self._call(node, origin) or self._call_opaque(node, origin)
        call.meta["onnx"] = origin
        self._outputs(call, node)

    def _call(self, node: NodeProto, origin: OnnxOrigin) -> fx.Node | None:
        """The call of the torch function, where the operator has one that takes these arguments."""
        domain = origin.domain
        function = None
        if (domain, node.op_type) not in self._functions and not origin.captured:
            function = function_of(domain, node.op_type, self._opsets.get(domain, 0))
        keywords = None if function is None else to_keywords(node)
        if function is None or keywords is None or any(name in self._unheld for name in node.input):
            return None
        trains = node.op_type == "BatchNormalization" and any(node.output[1:])
        extra = trains or any(name in self._read for name in node.output[1:])
        args = self._arguments(node)
        if (extra and node.op_type not in TUPLES) or not _takes(function, args, keywords):
            return None
        return self._graph.create_node("call_function", function, args, keywords, identifier(_title(node)))

    def _call_opaque(self, node: NodeProto, origin: OnnxOrigin) -> fx.Node:
        target, args = self._opaque(node, origin)
        self.remarks.append(
            Remark(
                "analysis", "import", _title(node), f"{node.op_type} has no torch form; runs in ONNX Runtime"
            )
        )
        return self._graph.create_node("call_module", target, args, {}, identifier(_title(node)))

    def _opaque(self, node: NodeProto, origin: OnnxOrigin) -> tuple[str, tuple[fx.Node | None, ...]]:
        names = (*node.input, *origin.captured)
        embedded = {name: self._unheld[name] for name in names if name in self._unheld}
        held = lambda name: None if not name or name in embedded else self._value(name, _title(node))  # noqa: E731
        target = self._names.take(f"ort_{identifier(_title(node))}")
        self.root.add_module(target, OrtOp(node, self._model, origin.captured, embedded))
        return target, tuple(held(name) for name in names)

    def _arguments(self, node: NodeProto) -> tuple[fx.Node | None, ...]:
        names = list(node.input)
        while names and not names[-1]:
            names.pop()
        return tuple(self._value(name, _title(node)) if name else None for name in names)

    def _outputs(self, call: fx.Node, node: NodeProto) -> None:
        if call.op == "call_function" and node.op_type not in TUPLES:
            self._values[node.output[0]] = call
            return
        for i, name in enumerate(node.output):
            if name and name in self._read:
                self._values[name] = self._graph.call_function(operator.getitem, (call, i))

    def _value(self, name: str, reader: str) -> fx.Node:
        if name in self._waiting:
            self._store(self._waiting.pop(name))
        if name in self._unheld:
            raise ModelError(f"{self._where}: {reader} reads {name!r}, whose type cannot be held; convert it")
        if name not in self._values:
            raise ModelError(
                f"{self._where}: {reader} reads {name!r}, which nothing before it makes; sort the graph"
            )
        return self._values[name]

    def _store(self, name: str) -> str:
        """Make a tensor of the file one of the program, read from here on."""
        target = self._names.take(name)
        put_tensor(self.root, target, self._stored[name])
        self._tensors[target] = name
        self._values[name] = self._graph.create_node("get_attr", target, name=identifier(name))
        return target


def _takes(function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(*args, **keywords)
    except TypeError:
        return False
    return True


def _read_names(graph: onnx.GraphProto) -> set[str]:
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        names.update(captured_names(node))
    return names


def _title(node: NodeProto) -> str:
    return node.name or next((name for name in node.output if name), node.op_type)
