"""Which nodes of a network must stay in float32 because of the values that they read or give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

LARGEST = float(np.finfo(np.float16).max)

LIMIT = 3e4
"""Measured values above it stay in float32: less than half of what float16 holds, since inputs that were
not measured go further."""

BOUNDED = frozenset(
    ("Sigmoid", "HardSigmoid", "Tanh", "Softmax", "Erf", "Softsign", "Sin", "Cos", "Sign")
    + ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")
    + ("LpNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization")
)
"""Operators whose outputs are small whatever they read."""

BOUNDS: Mapping[str, int] = {"Clip": 1}
"""Operators of which the inputs from this one on only limit the first: outputs are not larger for them."""


def wide_nodes(
    model: onnx.ModelProto, types: Mapping[str, int], ranges: Mapping[str, float] | None
) -> dict[str, str]:
    """The names of the nodes that must stay in float32, each with the reason.

    ``types`` of the values as ONNX numbers them; ``ranges``: the largest magnitude of the values, None where
    it is not known. Then everything after a weight that float16 cannot hold counts as too large, up to
    operators with small outputs. Every node has a name.
    """
    stored = {tensor.name: size for tensor in model.graph.initializer if (size := _excess(tensor))}
    wide = {name: f"its weight {name} holds more than {LARGEST:g}" for name in stored}
    if ranges is not None:
        wide |= {
            value: f"values reach {size:.3g} on the calibration inputs"
            for value, size in ranges.items()
            if size > LIMIT
        }
    kept: dict[str, str] = {}
    for node in model.graph.node:
        made = [name for name in node.output if types.get(name) == TensorProto.FLOAT]
        if any(map(_excess, _tensors(node))):
            wide |= dict.fromkeys(made, f"its weight {node.output[0]} holds more than {LARGEST:g}")
        read = next((wide[name] for name in _read(node) if name in wide), None)
        given = next((wide[name] for name in made if name in wide), None)
        reason = given or read
        if reason is None:
            continue
        kept[node.name] = reason
        if ranges is None and node.op_type not in BOUNDED and _carried(node, wide):
            wide |= dict.fromkeys(made, f"what it reads comes from a weight above {LARGEST:g}")
    return kept


def _carried(node: onnx.NodeProto, wide: Mapping[str, str]) -> bool:
    """Whether an input is wide that makes the outputs so."""
    inputs = list(node.input)[: BOUNDS.get(node.op_type)]
    return any(name in wide for name in inputs) or any(name in wide for name in _captured(node))


def _read(node: onnx.NodeProto) -> list[str]:
    return [*node.input, *_captured(node)]


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """All names that the bodies of a node read."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in _BODIES else ():
            for inner in body.node:
                yield from _read(inner)
            yield from (value.name for value in body.output)


_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    """The constants that a node holds itself, as Constant and ConstantOfShape do."""
    yield from (item.t for item in node.attribute if item.type == AttributeProto.TENSOR)


def _excess(tensor: TensorProto) -> bool:
    """Whether float16 cannot hold it; infinities it can."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    return bool((np.isfinite(values) & (np.abs(values) > LARGEST)).any())
