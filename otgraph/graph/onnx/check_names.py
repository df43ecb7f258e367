"""Names of an ONNX file: text that can be written, and one value for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from otgraph.errors import ModelError
from otgraph.graph.onnx.subgraphs import all_graphs


def check_text(model: onnx.ModelProto, where: str) -> None:
    """All that is text in the format is UTF-8: protobuf reads other bytes too, and hands them on as bytes.

    Raises:
        ModelError: says which field of which message is not.
    """
    for place, text in _texts(model, "model"):
        if not isinstance(text, str):
            raise ModelError(
                f"{where}: {place} is {bytes(text)[:40]!r}, which is not UTF-8; export or download the model"
                " again"
            )


def check_names(model: onnx.ModelProto, where: str) -> None:
    """Every value of a graph has one name and one maker.

    Raises:
        ModelError: names the value, and what makes it.
    """
    for graph in all_graphs(model):
        inputs = [value.name for value in graph.input]
        stored = [tensor.name for tensor in graph.initializer]
        stored += [sparse.values.name for sparse in graph.sparse_initializer]
        _check_once(inputs, "graph input", where)
        _check_once(stored, "initializer", where)
        _check_once(dict.fromkeys(value.name for value in graph.output), "graph output", where)  # may repeat
        _check_makers(
            graph.node, {**dict.fromkeys(inputs, "an input"), **dict.fromkeys(stored, "stored")}, where
        )
    for function in model.functions:
        _check_once(function.input, "function input", f"{where}: function {function.name!r}")
        _check_makers(
            function.node,
            dict.fromkeys(function.input, "an input"),
            f"{where}: function {function.name!r}",
        )


def _check_once(names: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"{where}: a {what} has no name; export the model again")
        if name in seen:
            raise ModelError(f"{where}: {what} {name!r} is there twice; keep one")
        seen.add(name)


def _check_makers(nodes: Iterable[onnx.NodeProto], known: dict[str, str], where: str) -> None:
    makers = dict(known)
    for index, node in enumerate(nodes):
        maker = f"made by node {node.name or index!r} ({node.op_type})"
        for name in node.output:
            if name in makers:
                raise ModelError(
                    f"{where}: value {name!r} is {makers[name]} and {maker}; give one of them another name"
                )
            if name:
                makers[name] = maker


def _texts(message: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every text of a message and those inside it, with the name of the field."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            many = [value] if isinstance(value, (str, bytes)) else value
            yield from ((f"the {field.name} of {place}", text) for text in many)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            name = field.message_type.name.removesuffix("Proto").lower()
            inner = [value] if isinstance(value, Message) else value
            for each in inner:
                yield from _texts(each, f"a {name}" if name != "graph" else "the graph")
