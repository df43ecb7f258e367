"""ONNX attributes ⇄ the keyword arguments of a torch function."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import AttributeProto, NodeProto

from otgraph.graph.onnx.header import plain_domain
from otgraph.graph.onnx.tensors import ONNX_TYPES, TORCH_TYPES, to_torch

_SCALARS = (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING)
_LISTS = (AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS)
_MADE_UP = {"Split": {"num_outputs"}, "ConstantOfShape": {"value", "dtype"}}
"""Keywords that restate something else of the node; see ``to_keywords``."""


def to_keywords(node: NodeProto) -> dict[str, Any] | None:
    """The attributes of ``node`` as keywords; None where one has no such form (graph, tensor, reference).

    ``Split`` gets ``num_outputs`` from its outputs where no sizes are given; the one-element tensor of
    ``ConstantOfShape`` becomes ``value`` and ``dtype``.
    """
    if node.op_type == "ConstantOfShape" and plain_domain(node.domain) == "":
        return _fill(node)
    keywords: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name or attribute.type not in (*_SCALARS, *_LISTS):
            return None
        keywords[attribute.name] = _plain(onnx.helper.get_attribute_value(attribute))
    if node.op_type == "Split" and (len(node.input) < 2 or not node.input[1]) and "split" not in keywords:
        keywords.setdefault("num_outputs", len(node.output))
    return keywords


def write_keywords(node: NodeProto, keywords: dict[str, Any], opset: int) -> None:
    """Make the attributes of ``node`` say ``keywords``, touching only those that say something else."""
    before = to_keywords(node) or {}
    if node.op_type == "ConstantOfShape" and plain_domain(node.domain) == "":
        if before != keywords:
            _write_fill(node, keywords)
        return
    made_up = _MADE_UP.get(node.op_type, set[str]()) - _attributes_of(node, opset)
    for name in {**before, **keywords}:
        if before.get(name) == keywords.get(name) or name in made_up:
            continue
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if keywords.get(name) is not None:
            value = keywords[name]
            value = list(value) if isinstance(value, (list, tuple)) else value
            node.attribute.append(
                onnx.helper.make_attribute(name, value, attr_type=_type_of(node, name, opset))
            )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (int, float)):
        return value
    return [_plain(item) for item in value]


def _fill(node: NodeProto) -> dict[str, Any] | None:
    if not node.attribute:
        return {}
    proto = node.attribute[0].t
    if proto.data_type not in TORCH_TYPES or proto.data_location == onnx.TensorProto.EXTERNAL:
        return None
    tensor = to_torch(proto)
    return {"value": tensor.item(), "dtype": tensor.dtype} if tensor.numel() == 1 else None


def _write_fill(node: NodeProto, keywords: dict[str, Any]) -> None:
    dtype: torch.dtype = keywords.get("dtype", torch.float32)
    value = onnx.helper.make_tensor("value", ONNX_TYPES[dtype], [1], [keywords.get("value", 0)])
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", value))


def _attributes_of(node: NodeProto, opset: int) -> set[str]:
    schema = _schema(node, opset)
    return set() if schema is None else set(schema.attributes)


def _type_of(node: NodeProto, name: str, opset: int) -> int | None:
    schema = _schema(node, opset)
    if schema is None or name not in schema.attributes:
        return None
    kind: Any = schema.attributes[name].type
    return int(kind.value)


def _schema(node: NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    domain = plain_domain(node.domain)
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    return onnx.defs.get_schema(node.op_type, opset, domain)
