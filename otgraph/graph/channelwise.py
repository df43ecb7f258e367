"""Nodes that multiply each channel by a stored number and add another: batch norms, scales, biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.graph.affine import BatchNorm, argument, read_batch_norm
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.stored import stored_value


@dataclass(frozen=True, eq=False)
class Channelwise:
    """``factor * data + shift`` per channel; both (channels,), float64."""

    data: fx.Node
    factor: torch.Tensor
    shift: torch.Tensor


def norm_factor_and_shift(graph: Graph, norm: BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """An inference batch norm as a factor and a shift per channel, (channels,), float64; with its own eps."""
    mean, var = graph.tensor(norm.mean).detach().double(), graph.tensor(norm.var).detach().double()
    factor = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * graph.tensor(norm.weight).detach().double()
    shift = -mean * factor
    if norm.bias is not None:
        shift = shift + graph.tensor(norm.bias).detach().double()
    return factor, shift


def read_channelwise(graph: Graph, node: fx.Node, shape: tuple[int, ...], axis: int) -> Channelwise | None:
    """``node`` as a factor and a shift per channel of a value of ``shape``, whose channels lie on ``axis``.

    None where it is something else, or its numbers are computed or vary over other axes too.
    """
    norm = read_batch_norm(graph, node)
    if norm is not None:
        return Channelwise(norm.data, *norm_factor_and_shift(graph, norm)) if axis % len(shape) == 1 else None
    found = _arithmetic(graph, node)
    if found is None:
        return None
    data, factor, shift = found
    factors, shifts = (_per_channel(value, shape, axis % len(shape)) for value in (factor, shift))
    return None if factors is None or shifts is None else Channelwise(data, factors, shifts)


def plain_name(node: fx.Node) -> str:
    """The operator of ``node``, that of an in-place one without the underscore."""
    return op_name(node).removesuffix("_")


def _arithmetic(graph: Graph, node: fx.Node) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | None:
    """(data, factor, shift) of an operator of one computed operand."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    name = plain_name(node).partition(".")[2].lower()
    if not op_name(node).startswith(("aten.", "onnx.")) or "rounding_mode" in node.kwargs:
        return None
    first = argument(node, 0, "")
    if name == "neg" and isinstance(first, fx.Node):
        return first, -one, zero
    if name not in ("add", "sub", "rsub", "mul", "div") or len(node.args) < 2:
        return None
    a, b = (stored_value(graph, operand) for operand in node.args[:2])
    if (a is None) == (b is None):
        return None
    data, value, is_first = (node.args[0], b, True) if a is None else (node.args[1], a, False)
    assert value is not None
    if not isinstance(data, fx.Node) or value.is_complex():
        return None
    weights = _weights(node, name)
    if weights is not None:  # a sum: its operands' coefficients
        own, other = weights if is_first else weights[::-1]
        return data, one * own, value.double() * other
    if name == "mul":
        return data, value.double(), zero
    return (data, 1 / value.double(), zero) if is_first else None


def _weights(node: fx.Node, name: str) -> tuple[float, float] | None:
    """What a sum multiplies its first and second operand by; None for a product."""
    given: Any = argument(node, 2, "alpha", 1)
    if name not in ("add", "sub", "rsub") or not isinstance(given, (int, float)):
        return None
    alpha = float(given)
    return {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]


def _per_channel(value: torch.Tensor, shape: tuple[int, ...], axis: int) -> torch.Tensor | None:
    """A number that is broadcast to ``shape`` as one per channel, (channels,)."""
    if value.dim() > len(shape):
        return None
    sizes = [1] * (len(shape) - value.dim()) + list(value.shape)
    if any(size != 1 for at, size in enumerate(sizes) if at != axis) or sizes[axis] not in (1, shape[axis]):
        return None
    return value.reshape(-1).double().cpu().expand(shape[axis])
