"""The masking law: cutting indices of a dim equals zeroing everything stored at them."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx

from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.quantized import zeros_of

_DIVISORS = {
    "aten.batch_norm": 4,
    "aten._native_batch_norm_legit_no_training": 4,
    "onnx.BatchNormalization": 4,
    "aten.div": 1,
    "onnx.Div": 1,
    "aten.reciprocal": 0,
    "onnx.Reciprocal": 0,
    "aten.rsqrt": 0,
    "aten.log": 0,
    "onnx.Log": 0,
    "onnx.QuantizeLinear": 1,
}
"""Operators that divide by an argument (as by a running variance) or take its logarithm, and its position."""


def mask_graph(graph: Graph, axis_map: AxisMap, keep: Keep) -> Graph:
    """``graph`` with every stored tensor zeroed at the removed positions, what is divided by set to 1 there.
    Of integers that are dequantized those are put there that stand for zero.

    Args:
        axis_map: the axes of ``graph``.
        keep: dim name → mask of what stays; a dim that is not named is left alone.

    Returns:
        An independent graph of the same shapes.
    """
    masked = graph.copy()
    divisors = _divisors(masked)
    removed = {name: _removed(tensor, name, axis_map, keep) for name, tensor in masked.tensors().items()}
    with torch.no_grad():
        for name, tensor in masked.tensors().items():
            for axis, gone in enumerate(removed[name]):
                _fill(tensor, axis, gone, torch.tensor(1 if name in divisors else 0))
        for name, tensor in masked.tensors().items():  # now that zero points are what they will be
            zeros = zeros_of(masked, name) if any(gone.any() for gone in removed[name]) else None
            for axis, gone in enumerate(removed[name] if zeros is not None else ()):
                assert zeros is not None
                _fill(tensor, axis, gone, zeros)
    return masked


def _removed(tensor: torch.Tensor, name: str, axis_map: AxisMap, keep: Keep) -> list[torch.Tensor]:
    """Per axis of a stored tensor, where it is removed."""
    return [
        torch.tensor((~expression.mask(keep)).tolist(), dtype=torch.bool, device=tensor.device)
        for expression in axis_map.tensors.get(name, ())
    ]


def _fill(tensor: torch.Tensor, axis: int, gone: torch.Tensor, value: torch.Tensor) -> None:
    """Put ``value``, which broadcasts, where ``gone`` is along ``axis``."""
    if not bool(gone.any()):
        return
    if value.dim() == 0 and tensor.is_floating_point():  # in place: a weight may be large
        tensor.data.index_fill_(axis, gone.nonzero().flatten(), float(value))
    else:
        places = gone.reshape([-1 if i == axis else 1 for i in range(tensor.dim())])
        tensor.data.copy_(torch.where(places, value.to(tensor), tensor))


def relative_error(reference: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> float:
    """The largest ‖a − b‖ / ‖a‖ over the outputs; infinite where shapes or non-finite entries differ."""
    if len(reference) != len(other):
        return float("inf")
    return max((_relative_error(a, b) for a, b in zip(reference, other, strict=True)), default=0.0)


def masking_error(original: Graph, cut: Graph, axis_map: AxisMap, keep: Keep, *inputs: torch.Tensor) -> float:
    """How far ``cut`` is from the masking law on ``inputs``: relative error against the masked original."""
    return relative_error(mask_graph(original, axis_map, keep)(*inputs), cut(*inputs))


def _relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    x, y = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    finite = x.isfinite() & y.isfinite()
    same = finite | (x == y) | (x.isnan() & y.isnan())
    if not bool(same.all()):
        return float("inf")
    x, y = x[finite], y[finite]
    scale, distance = float(x.square().sum().sqrt()), float((x - y).square().sum().sqrt())
    if distance == 0.0:
        return 0.0
    return distance / scale if scale > 0.0 else float("inf")


def _divisors(graph: Graph) -> set[str]:
    """The stored tensors that something is divided by, as they are or by way of what is computed of them."""
    found: set[str] = set()
    stored: dict[fx.Node, frozenset[str]] = {}
    for node in graph.module.graph.nodes:
        if node.op == "get_attr":
            stored[node] = frozenset({str(node.target)})
        elif node.op == "call_function" and all(source in stored for source in node.all_input_nodes):
            stored[node] = frozenset[str]().union(*(stored[source] for source in node.all_input_nodes))
        position = _DIVISORS.get(op_name(node))
        if position is not None and position < len(node.args):
            found |= stored.get(cast("fx.Node", node.args[position]), frozenset())
    return found
