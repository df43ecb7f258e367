"""Activations that only cut values off at two bounds: of two in a row one often does nothing."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.channelwise import plain_name
from otgraph.graph.graph import Graph, label, op_name
from otgraph.graph.stored import stored_value
from otgraph.rewrite.rewriter import Rewriter

_FIXED = {
    "aten.relu": (0.0, math.inf),
    "onnx.Relu": (0.0, math.inf),
    "aten.relu6": (0.0, 6.0),
}
_BOUNDED = {
    "aten.clamp": ("min", "max", -math.inf, math.inf),
    "aten.clip": ("min", "max", -math.inf, math.inf),
    "onnx.Clip": ("min", "max", -math.inf, math.inf),
    "aten.hardtanh": ("min_val", "max_val", -1.0, 1.0),
}


def join_bounds(rewriter: Rewriter, node: fx.Node) -> bool:
    """Drop ``node``, or the one before it, where the other one cuts off all that it does.

    Both are floating-point activations; whether ``node`` carries the name of an output is the caller's
    concern. Returns whether one was dropped.
    """
    inner = argument(node, 0, "")
    if not isinstance(inner, fx.Node):
        return False
    outside, inside = bounds(rewriter.graph, node), bounds(rewriter.graph, inner)
    if outside is None or inside is None:
        return False
    if outside[0] <= inside[0] and inside[1] <= outside[1]:
        rewriter.replace(node, inner)
        rewriter.erase(node)
        rewriter.remark("applied", label(node), f"cuts off nothing that {label(inner)} leaves: removed")
        return True
    source = inner.args[0]
    overwrites = op_name(inner) != plain_name(inner) and isinstance(source, fx.Node) and len(source.users) > 1
    if inside[0] <= outside[0] and outside[1] <= inside[1] and len(inner.users) == 1 and not overwrites:
        rewriter.set_argument(node, 0, source)
        rewriter.erase(inner)
        rewriter.remark("applied", label(inner), f"{label(node)} cuts off all that it does: removed")
        return True
    return False


def bounds(graph: Graph, node: fx.Node) -> tuple[float, float] | None:
    """The least and the largest value that ``node`` gives, where it changes no value between them; None for
    other operators and where a bound is computed."""
    name = plain_name(node) if node.op == "call_function" else ""
    if name in _FIXED:
        return _FIXED[name]
    if name not in _BOUNDED:
        return None
    low, high, least, most = _BOUNDED[name]
    found = _number(graph, argument(node, 1, low), least), _number(graph, argument(node, 2, high), most)
    if found[0] is None or found[1] is None or not found[0] <= found[1]:
        return None
    return found[0], found[1]


def _number(graph: Graph, given: Any, default: float) -> float | None:
    if given is None:
        return default
    value = stored_value(graph, given)
    return float(value) if value is not None and value.numel() == 1 else None
