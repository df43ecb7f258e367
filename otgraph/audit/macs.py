"""Multiply-accumulates of one ONNX node, from concrete shapes: one rule per op, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import onnx

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Rule = Callable[[onnx.NodeProto, Shapes], int | None]

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")

RECURRENT_OR_NESTED = frozenset(
    ("RNN", "LSTM", "GRU", "Attention", "MultiHeadAttention", "GroupQueryAttention")
    + ("DeformConv", "If", "Loop", "Scan")
)
"""Ops that do arithmetic which is not counted here; a report names them instead of calling them free."""


def macs_of(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """MACs of a node, or ``None`` where no figure can be given (op not known, shape not known).

    Element-wise and data-movement ops of ONNX's own domains count zero.
    """
    rule = RULES.get(node.op_type)
    if rule is not None:
        return rule(node, shapes)
    known = node.domain in STANDARD_DOMAINS and node.op_type not in RECURRENT_OR_NESTED
    return 0 if known else None


def is_compute(node: onnx.NodeProto) -> bool:
    """Whether the node is one of the ops that hold a network's arithmetic."""
    return node.op_type in RULES or node.op_type in RECURRENT_OR_NESTED


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value as ``onnx.helper`` reads it."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def _conv(weight: int) -> Rule:
    """Each output element sums over the input channels of its group and the kernel: W is (out, in/g, *k)."""

    def rule(node: onnx.NodeProto, shapes: Shapes) -> int | None:
        kernel, out = shapes.get(node.input[weight]), shapes.get(node.output[0])
        return None if kernel is None or out is None else prod(out) * prod(kernel[1:])

    return rule


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Each input element is spread over the outputs of its group and the kernel: W is (in, out/g, *k)."""
    data, kernel = shapes.get(node.input[0]), shapes.get(node.input[1])
    return None if data is None or kernel is None else prod(data) * prod(kernel[1:])


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    if left is None or out is None:
        return None
    return prod(out) * left[0 if attribute(node, "transA", 0) else 1]


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    if not left or out is None:
        return None
    return prod(out) * left[-2 if attribute(node, "transA", 0) else -1]


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Two operands: one MAC per combination of all indices. Ellipses and longer chains are not counted."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    operands = [shapes.get(name) for name in node.input]
    if len(terms) != 2 or len(operands) != 2 or "." in equation or not all(operands):
        return None
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        sizes.update(zip(term, operand or (), strict=True))
    return prod(sizes.values())


RULES: Mapping[str, Rule] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "FusedConv": _conv(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
}
