"""Paddings by a constant and average pools: nodes that slide over positions with no weight of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.compose import LinearMap, linear_map
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.stored import stored_value
from otgraph.window import Pads, Window, pointwise

_PADS = ("aten.constant_pad_nd", "aten.pad", "onnx.Pad")
_POOLS = ("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "onnx.AveragePool")


def read_padding(
    graph: Graph, node: fx.Node, shape: tuple[int, ...], dtype: torch.dtype
) -> LinearMap | str | None:
    """A padding of spatial axes by a constant as a map; why it is none; None where ``node`` does not pad.

    Args:
        shape: of what is padded, (batch, channels, *positions). ``dtype`` rounds the constant.
    """
    name = op_name(node)
    if name not in _PADS:
        return None
    mode: Any = (
        argument(node, 2, "mode", "constant") if name == "aten.pad" else node.kwargs.get("mode", "constant")
    )
    if mode != "constant":
        return f"pads by {mode}, which no convolution does"
    amounts, value = (_onnx_pads if name == "onnx.Pad" else _aten_pads)(graph, node, len(shape))
    if amounts is None or value is None:
        return "pads by amounts or with a value that are computed"
    if any(pair != (0, 0) for pair in amounts[:2]):
        return "pads the batch or the channels"
    fill = float(torch.tensor(value, dtype=dtype)) if any(a > 0 for pair in amounts for a in pair) else 0.0
    plain = pointwise(shape[1], len(shape) - 2)
    window = Window(shape[1], shape[1], shape[1], plain.kernel, plain.stride, amounts[2:], plain.dilation)
    return linear_map(window, torch.ones(shape[1], 1, *plain.kernel), fill=fill)


def read_average_pool(node: fx.Node, shape: tuple[int, ...]) -> LinearMap | str | None:
    """An average pool as a depthwise convolution; why it is none; None where ``node`` is no such pool.

    Where padding does not count, the divisor changes at the border, and so it does for windows that
    ``ceil_mode`` adds.
    """
    name, axes = op_name(node), len(shape) - 2
    if name not in _POOLS:
        return None
    read = _onnx_pool if name == "onnx.AveragePool" else _aten_pool
    found = read(node, axes)
    if found is None:
        return "pads by amounts that depend on the size of the input"
    kernel, stride, pads, counts, ceil, divisor = found
    if ceil:
        return "rounds its output size up (ceil_mode): the last window may be cut short"
    if any(amount for pair in pads for amount in pair) and not counts and divisor is None:
        return "does not count its padding, so its divisor changes at the border"
    window = Window(shape[1], shape[1], shape[1], kernel, stride, pads, (1,) * axes)
    share = 1.0 / (divisor or math.prod(kernel))
    return linear_map(window, torch.full((shape[1], 1, *kernel), share, dtype=torch.float64))


def _aten_pads(graph: Graph, node: fx.Node, rank: int) -> tuple[Pads | None, float | None]:
    amounts: Any = argument(node, 1, "pad")
    at = 3 if op_name(node) == "aten.pad" else 2
    value: Any = argument(node, at, "value")
    if not isinstance(amounts, (list, tuple)) or not all(isinstance(a, int) for a in amounts):
        return None, None
    if value is not None and not isinstance(value, (int, float)):
        return None, None
    flat = [*amounts, *(0,) * (2 * rank - len(amounts))]
    return tuple((flat[2 * i], flat[2 * i + 1]) for i in reversed(range(rank))), float(value or 0)


def _onnx_pads(graph: Graph, node: fx.Node, rank: int) -> tuple[Pads | None, float | None]:
    amounts = _integers(graph, argument(node, 1, "pads"))
    given = argument(node, 2, "value")
    value = torch.zeros(()) if given is None else stored_value(graph, given)
    along = argument(node, 3, "axes")
    axes = list(range(rank)) if along is None else _integers(graph, along)
    if amounts is None or axes is None or value is None or value.numel() != 1:
        return None, None
    pairs = {axis % rank: (amounts[i], amounts[len(axes) + i]) for i, axis in enumerate(axes)}
    return tuple(pairs.get(axis, (0, 0)) for axis in range(rank)), float(value)


def _integers(graph: Graph, value: Any) -> list[int] | None:
    if isinstance(value, fx.Node):
        stored = stored_value(graph, value)
        return None if stored is None else [int(v) for v in stored.reshape(-1)]
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else None


_Pool = tuple[tuple[int, ...], tuple[int, ...], Pads, bool, bool, int | None]
"""Kernel, stride, padding, whether padding counts, whether sizes are rounded up, divisor."""


def _aten_pool(node: fx.Node, axes: int) -> _Pool:
    kernel = _sizes(argument(node, 1, "kernel_size"), axes)
    given = argument(node, 2, "stride")
    padding = _sizes(argument(node, 3, "padding", 0), axes)
    return (
        kernel,
        _sizes(given, axes) if given else kernel,
        tuple((p, p) for p in padding),
        bool(argument(node, 5, "count_include_pad", True)),
        bool(argument(node, 4, "ceil_mode", False)),
        argument(node, 6, "divisor_override"),
    )


def _onnx_pool(node: fx.Node, axes: int) -> _Pool | None:
    options: dict[str, Any] = node.kwargs
    if options.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        return None
    if any(d != 1 for d in options.get("dilations") or ()):
        return None
    kernel = _sizes(options["kernel_shape"], axes)
    flat = [*(options.get("pads") or [0] * (2 * axes))]
    if options.get("auto_pad") == "VALID":
        flat = [0] * (2 * axes)
    pads = tuple((int(flat[i]), int(flat[axes + i])) for i in range(axes))
    strides = _sizes(options.get("strides") or 1, axes)
    return kernel, strides, pads, bool(options.get("count_include_pad")), bool(options.get("ceil_mode")), None


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(int(v) for v in (items * axes if len(items) == 1 else items))
