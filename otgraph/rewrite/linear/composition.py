"""Parts of a chain of maps as one map: geometry and borders first, the numbers only when they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from otgraph.graph.compose import Edge, LinearMap, compose, why_no_border
from otgraph.graph.pieces import Piece
from otgraph.window import Window, compose_windows


def composition(pieces: Sequence[Piece]) -> LinearMap:
    """The numbers of pieces of which ``Composition`` found a window.

    Raises:
        ValueError: they are no one map.
    """
    result = pieces[0].map
    for piece in pieces[1:]:
        composed = compose(result, piece.map)
        if isinstance(composed, str):
            raise ValueError(f"{piece.node.name}: {composed}")
        result = composed
    return result


def _windows() -> dict[tuple[int, int], Window | str]:
    return {}


def _edges() -> dict[tuple[int, int], Edge]:
    return {}


@dataclass
class Composition:
    """What parts of a run of pieces compose to; remembers what it has worked out."""

    pieces: Sequence[Piece]
    windows: dict[tuple[int, int], Window | str] = field(default_factory=_windows)
    edges: dict[tuple[int, int], Edge] = field(default_factory=_edges)

    def window(self, start: int, end: int) -> Window | str:
        """The geometry of a part of the chain, or why it is no one map."""
        if (start, end) not in self.windows:
            self.windows[start, end] = self._compose(start, end)
        return self.windows[start, end]

    def _compose(self, start: int, end: int) -> Window | str:
        last = self.pieces[end]
        if start == end:
            return last.window
        before = self.window(start, end - 1)
        if isinstance(before, str):
            return before
        refused = why_no_border(before, lambda: self._edge(start, end - 1), last.window, last.fill)
        return compose_windows(before, last.window) if refused is None else refused

    def _edge(self, start: int, end: int) -> Edge:
        """What a part of the chain gives outside its input."""
        if (start, end) not in self.edges:
            m = self.pieces[end].map
            value, size = (m.fill, m.fill.abs()) if start == end else self._edge(start, end - 1)
            self.edges[start, end] = (m.on_constant(value), m.size_on_constant(size))
        return self.edges[start, end]

    def bias(self, start: int, end: int) -> torch.Tensor:
        """The bias of a part of the chain."""
        bias = self.pieces[start].map.bias
        for piece in self.pieces[start + 1 : end + 1]:
            bias = piece.map.on_constant(bias)
        return bias
