"""How much memory fitting a layer takes besides the values it reads."""

from __future__ import annotations

from collections.abc import Iterable

from otgraph.calibrate.rows import BLOCK_BYTES, Geometry
from otgraph.graph.affine import Affine
from otgraph.graph.graph import Graph

BLOCKS = 4
"""Blocks of rows in memory at a time: as gathered, side by side, in their precision, and their residuals."""

SYSTEMS = 5
"""Grams in memory at a time: of the fitted and of the held-out batches, scaled, factorized, copied."""


def largest_system(graph: Graph, layers: Iterable[Affine], max_width: int) -> int:
    """Bytes that the largest of ``layers`` takes, of those with at most ``max_width`` columns; 0 without
    any."""
    return max((_bytes(graph, layer, max_width) for layer in layers), default=0)


def _bytes(graph: Graph, layer: Affine, max_width: int) -> int:
    geometry = Geometry(layer.window)
    if geometry.width > max_width:
        return 0
    return BLOCKS * BLOCK_BYTES + SYSTEMS * 8 * geometry.groups * geometry.width**2
