"""Nodes that only make a constant: ``Constant``, and ``ConstantOfShape`` of a stored shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import NodeProto, TensorProto

from otgraph.errors import ModelError
from otgraph.graph.onnx.attributes import to_keywords
from otgraph.graph.onnx.bounded import Bounded, TooLarge
from otgraph.graph.onnx.bounds import LARGEST_CONSTANT
from otgraph.graph.onnx.header import plain_domain
from otgraph.graph.onnx.ops.create import ConstantOfShape
from otgraph.graph.onnx.tensors import TORCH_TYPES, to_torch


def constant_value(
    node: NodeProto, stored: Mapping[str, torch.Tensor], folder: Path | None
) -> torch.Tensor | None:
    """What ``node`` always makes, or None where it is no such node or torch cannot hold the value.

    ``stored``: the initializers and constants known so far, by ONNX name.

    Raises:
        ModelError: the value would be too large to hold.
    """
    if plain_domain(node.domain) != "":
        return None
    if node.op_type == "ConstantOfShape" and node.input[0] in stored:
        return _filled(node, stored[node.input[0]])
    if node.op_type == "Constant" and len(node.attribute) == 1:
        return _of_attribute(node.attribute[0], folder)
    return None


def _filled(node: NodeProto, shape: torch.Tensor) -> torch.Tensor | None:
    """The tensor of a ``ConstantOfShape``; None where its arguments are wrong, which its run will say."""
    keywords = to_keywords(node)
    try:
        with Bounded(LARGEST_CONSTANT):
            return None if keywords is None else ConstantOfShape(shape, **keywords)
    except TooLarge as error:
        raise ModelError(
            f"node {node.name or node.output[0]!r}: {error} (its shape is {shape.tolist()}), more than a"
            " model file holds; export the model with a smaller constant"
        ) from error
    except (RuntimeError, TypeError, ValueError):
        return None


def _of_attribute(attribute: onnx.AttributeProto, folder: Path | None) -> torch.Tensor | None:
    if attribute.ref_attr_name:
        return None
    if attribute.name == "value" and attribute.t.data_type in TORCH_TYPES:
        return to_torch(attribute.t, folder)
    if attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return torch.tensor(values, dtype=torch.float32)
    if attribute.name in ("value_int", "value_ints"):
        values = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        return torch.tensor(values, dtype=torch.int64)
    return None


def holdable(proto: TensorProto) -> bool:
    """Whether torch has the type of this tensor."""
    return proto.data_type in TORCH_TYPES
