"""Branches that read one value and are added: each a map, or the value itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.channelwise import plain_name
from otgraph.graph.compose import LinearMap, add, linear_map
from otgraph.graph.graph import Graph, label
from otgraph.graph.pieces import Kind, Piece, Values
from otgraph.rewrite.linear.chains import Pieces
from otgraph.rewrite.linear.composition import Composition, composition
from otgraph.rewrite.linear.fusion import Fusion, needs_add, needs_pad, over_growth
from otgraph.window import Window, add_windows, pointwise

_SUMS = {"aten.add": 1.0, "aten.sub": -1.0, "onnx.Add": 1.0, "onnx.Sub": -1.0, "onnx.Sum": 1.0}
"""Operators that add two values, and the sign of the second."""


@dataclass(frozen=True)
class BranchLimits:
    """``growth``, ``spent`` and ``refused`` as of a ``Chain``."""

    growth: float
    spent: Mapping[fx.Node, int]
    refused: set[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Branch:
    """A chain of maps that starts at ``entry``; no map where the branch is the entry itself."""

    entry: fx.Node
    pieces: tuple[Piece, ...]
    window: Window
    fill: float = 0.0

    def map(self) -> LinearMap:
        """Its numbers."""
        if self.pieces:
            return composition(self.pieces)
        return linear_map(self.window, torch.ones(self.window.outputs, 1, *self.window.kernel))


def fuse_sum(
    graph: Graph, node: fx.Node, kind: Kind, pieces: Pieces, values: Values, limits: BranchLimits
) -> Fusion | str | None:
    """The addition ``node`` and the branches it adds as one map; why not; or None where it adds no two
    branches of one value."""
    found = _branches(node, kind, pieces, values)
    if found is None:
        return None
    a, b, scale = found
    parts = [*a.pieces, *b.pieces]
    hosts = [piece for piece in parts if piece.host is not None]
    shared = [
        branch.pieces[-1] for branch in (a, b) if branch.pieces and len(branch.pieces[-1].node.users) > 1
    ]
    if not hosts:
        return None
    if shared:
        return f"{label(shared[0].node)} is read by others too"
    window = add_windows(a.window, b.window)
    if isinstance(window, str):
        return window
    if a.window.pads and b.window.pads and a.fill != b.fill:
        return "they pad with different values"
    host = max(hosts, key=lambda piece: piece.macs).host
    assert host is not None
    positions = (a.pieces or b.pieces)[-1].positions
    spent = sum(limits.spent.get(piece.node, piece.macs) for piece in parts)
    before, after = spent + window.outputs * positions, window.weights * positions
    fill = a.fill if a.window.pads else b.fill
    order = {other: at for at, other in enumerate(graph.module.graph.nodes)}
    nodes = (*sorted((piece.node for piece in parts), key=order.__getitem__), node)
    biased = needs_add(graph, host) and any(bool(branch.map().bias.any()) for branch in (a, b))
    if 1 + needs_pad(graph, window, fill) + biased >= len(nodes):
        return ""
    fusion = Fusion(a.entry, nodes, host, window, fill, before, after, _sum(a, b, scale))
    if fusion.key in limits.refused:
        return ""
    return over_growth(before, after, limits.growth) or fusion


def _branches(
    node: fx.Node, kind: Kind, pieces: Pieces, values: Values
) -> tuple[Branch, Branch, float] | None:
    """The two branches that ``node`` adds, and what it multiplies the second by."""
    name = plain_name(node) if node.op == "call_function" else ""
    if name not in _SUMS or len(node.args) < 2 or (name == "onnx.Sum" and len(node.args) != 2):
        return None
    first, second = node.args[:2]
    alpha: Any = argument(node, 2, "alpha", 1)
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return None
    if not isinstance(alpha, (int, float)) or not _alike(values, first, second, node):
        return None
    upstream = [_upstream(operand, pieces) for operand in (first, second)]
    for entry in (piece.data for run in upstream for piece in run):
        a, b = (_branch(*pair, entry, kind, values) for pair in zip((first, second), upstream, strict=True))
        if a is not None and b is not None:
            return a, b, _SUMS[name] * float(alpha)
    return None


def _alike(values: Values, *nodes: fx.Node) -> bool:
    if any(node not in values for node in nodes):
        return False
    first = values[nodes[0]]
    return all(values[node].shape == first.shape and values[node].dtype == first.dtype for node in nodes)


def _upstream(operand: fx.Node, pieces: Pieces) -> list[Piece]:
    """The maps that end at ``operand``, the last first, each but that read by the next alone."""
    run: list[Piece] = []
    piece = pieces.get(operand)
    while isinstance(piece, Piece):
        run.append(piece)
        piece = pieces.get(piece.data) if len(piece.data.users) == 1 else None
    return run


def _branch(
    operand: fx.Node, upstream: list[Piece], entry: fx.Node, kind: Kind, values: Values
) -> Branch | None:
    if operand is entry:
        shape = values[entry].shape
        channels = shape[1 if kind == "conv" else -1] if len(shape) > 1 else 0
        return Branch(entry, (), pointwise(channels, len(shape) - 2 if kind == "conv" else 0))
    for at, piece in enumerate(upstream):
        if piece.data is entry:
            run = tuple(reversed(upstream[: at + 1]))
            window = Composition(run).window(0, at)
            return None if isinstance(window, str) else Branch(entry, run, window, run[0].fill)
    return None


def _sum(a: Branch, b: Branch, scale: float) -> Callable[[], LinearMap]:
    def compute() -> LinearMap:
        total = add(a.map(), b.map(), scale)
        if isinstance(total, str):
            raise ValueError(total)  # the windows said that they add up
        return total

    return compute
