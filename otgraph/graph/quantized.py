"""Integers that stand for numbers: what ``QuantizeLinear`` writes and ``DequantizeLinear`` reads."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx.ops.quantization import spread

QUANTIZE, DEQUANTIZE = "onnx.QuantizeLinear", "onnx.DequantizeLinear"
AXIS = 1
"""The axis of a scale per index, where a quantizer does not say which."""


def is_quantizer(node: fx.Node) -> bool:
    """Whether ``node`` turns numbers into integers of a scale and a zero point, or back, as a torch function
    does; one that runs in another engine is opaque."""
    return node.op == "call_function" and op_name(node) in (QUANTIZE, DEQUANTIZE)


def parameters(node: fx.Node) -> tuple[Any, Any, int, int]:
    """Scale and zero point (None where there is none) of a quantizer as its arguments, its axis and block."""
    axis, block = node.kwargs.get("axis", AXIS), node.kwargs.get("block_size", 0)
    return argument(node, 1, "scale"), argument(node, 2, "zero_point"), cast("int", axis), cast("int", block)


def stored_steps(graph: Graph) -> frozenset[str]:
    """The stored integers that quantizers alone read: zero points, and what is dequantized by one zero point,
    so that there is one integer at each place which stands for zero."""
    readers: dict[str, list[fx.Node]] = {}
    for node in graph.module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).append(node)
    ways = {
        name: {_reading(user, read) for read in reads for user in read.users}
        for name, reads in readers.items()
    }
    return frozenset(name for name, found in ways.items() if len(found) == 1 and None not in found)


def zeros_of(graph: Graph, name: str) -> torch.Tensor | None:
    """The integers that stand for zero in the stored ``name``, in a shape that broadcasts to its; None where
    it is not dequantized, or without a zero point."""
    node = _dequantizer(graph, name)
    if node is None:
        return None
    _, zero, axis, block = parameters(node)
    if not isinstance(zero, fx.Node):
        return None
    return spread(graph.tensor(str(zero.target)).detach().to(torch.int32), graph.tensor(name), axis, block)


def real_values(graph: Graph, name: str) -> torch.Tensor:
    """The numbers that the stored ``name`` stands for: itself, or what is dequantized of it.

    A scale that is computed cannot be known; the integers then stand for themselves.
    """
    tensor, node = graph.tensor(name).detach(), _dequantizer(graph, name)
    if node is None:
        return tensor
    scale, zero, *_ = parameters(node)
    if any(isinstance(each, fx.Node) and each.op != "get_attr" for each in (scale, zero)):
        return tensor
    stored = [None if each is None else graph.tensor(str(each.target)).detach() for each in (scale, zero)]
    function = cast("Any", node.target)
    return function(tensor, *stored, **node.kwargs)


def _dequantizer(graph: Graph, name: str) -> fx.Node | None:
    if graph.tensor(name).is_floating_point():
        return None
    for node in graph.module.graph.nodes:
        if op_name(node) == DEQUANTIZE and is_quantizer(node):
            source = node.args[0]
            if isinstance(source, fx.Node) and source.op == "get_attr" and source.target == name:
                return node
    return None


def _reading(user: fx.Node, read: fx.Node) -> tuple[Any, ...] | None:
    """How ``user`` reads a stored tensor, if as a quantizer does with what is known: as a zero point, or by
    the zero point that is named; else None."""
    if not is_quantizer(user):
        return None
    scale, zero, axis, block = parameters(user)
    if zero is read and scale is not read and user.args[0] is not read:
        return ("zero point",)
    known = zero is None or (isinstance(zero, fx.Node) and zero.op == "get_attr")
    if user.args[0] is not read or op_name(user) != DEQUANTIZE or not known:
        return None
    return ("steps", *(() if zero is None else (zero.target, axis, block)))
