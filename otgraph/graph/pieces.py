"""Nodes as affine maps that can be composed: one reading for all the ways in which programs write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import fx

from otgraph.graph.affine import Affine, argument, read_affine, read_weight
from otgraph.graph.channelwise import plain_name, read_channelwise
from otgraph.graph.compose import LinearMap, linear_map
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.sliding import read_average_pool, read_padding
from otgraph.window import Window, pointwise

Kind = Literal["conv", "linear"]
"""How the channels lie: on axis 1 before the positions, or on the last axis."""


class Value(Protocol):
    """Shape and dtype of a value for the example inputs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        ...


Values = Mapping[fx.Node, Value]


@dataclass(frozen=True, eq=False)
class Piece:
    """``node`` computes ``map`` of ``data``. ``host``: how to write a map in its place, where it has a weight
    of its own. ``positions``: of the output on the example inputs, the batch included; ``macs``:
    multiply–accumulates there. ``fill``: what its padding holds."""

    node: fx.Node
    data: fx.Node
    window: Window
    positions: int
    host: Affine | None
    read: Callable[[], LinearMap]
    macs: int
    fill: float = 0.0

    @cached_property
    def map(self) -> LinearMap:
        """Its numbers; read when first asked for."""
        return self.read()


def read_piece(graph: Graph, node: fx.Node, kind: Kind, values: Values) -> Piece | str | None:
    """``node`` as a map of channels that lie as ``kind`` says.

    Returns:
        The piece; why it is none though its operator could be one, in words; or None for other operators.
    """
    if node.op != "call_function" or node not in values:
        return None
    affine = read_affine(graph, node)
    if affine is not None and affine.data in values:
        return _host(graph, affine, kind, values) if affine.kind == kind else None
    data = argument(node, 0, "")
    if op_name(node) == "onnx.Conv" and kind == "conv":
        return "its weight is computed, or its padding depends on the size of the input"
    if op_name(node) in ("onnx.Gemm", "aten.addmm") and kind == "linear":
        return "its weight is computed, or it is no plain product"
    if isinstance(data, fx.Node) and data in values and kind == "conv" and len(values[data].shape) > 2:
        found = _sliding(graph, node, data, values)
        if found is not None:
            return found
    return _channelwise(graph, node, kind, values)


def _host(graph: Graph, affine: Affine, kind: Kind, values: Values) -> Piece | str:
    entry, result = values[affine.data].shape, values[affine.node].shape
    weight = read_weight(graph, affine)
    if kind == "conv" and len(entry) != weight.dim():
        return "reads an input without a batch"
    if values[affine.data].dtype != weight.dtype:
        return "its weight has another type than its input"
    window = affine.window
    bias = affine.bias if affine.output is affine.node else None

    def read() -> LinearMap:
        stored = None if bias is None else graph.tensor(bias)
        return linear_map(window, read_weight(graph, affine), stored)

    positions = _positions(result, kind)
    return Piece(affine.node, affine.data, window, positions, affine, read, window.weights * positions)


def _sliding(graph: Graph, node: fx.Node, data: fx.Node, values: Values) -> Piece | str | None:
    padding = read_padding(graph, node, values[data].shape, values[data].dtype)
    found = read_average_pool(node, values[data].shape) if padding is None else padding
    if found is None or isinstance(found, str):
        return found
    positions = _positions(values[node].shape, "conv")
    macs = 0 if padding is not None else found.window.weights * positions
    return Piece(node, data, found.window, positions, None, lambda: found, macs, float(found.fill[0]))


def _channelwise(graph: Graph, node: fx.Node, kind: Kind, values: Values) -> Piece | None:
    shape = values[node].shape
    if not shape or (kind == "conv" and len(shape) < 3):
        return None
    found = read_channelwise(graph, node, shape, 1 if kind == "conv" else -1)
    if found is None or found.data not in values:
        return None
    source = values[found.data]
    same = source.shape == shape and source.dtype == values[node].dtype
    if not same or not source.dtype.is_floating_point or _overwrites(node, found.data):
        return None
    window = pointwise(int(found.factor.numel()), len(shape) - 2 if kind == "conv" else 0)
    weight = found.factor.reshape(-1, 1, *window.kernel)
    positions = _positions(shape, kind)

    def read() -> LinearMap:
        return linear_map(window, weight, found.shift)

    return Piece(node, found.data, window, positions, None, read, window.weights * positions)


def _overwrites(node: fx.Node, data: fx.Node) -> bool:
    """Whether an in-place operator changes what others read."""
    return op_name(node) != plain_name(node) and (len(data.users) > 1 or data.op == "placeholder")


def _positions(shape: tuple[int, ...], kind: Kind) -> int:
    """Output positions, the batch included."""
    count = 1
    for axis, size in enumerate(shape):
        if axis != (1 if kind == "conv" else len(shape) - 1):
            count *= size
    return count
