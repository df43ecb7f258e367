"""Chains of affine nodes, and how to cut one into the fewest multiply–accumulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import fx

from otgraph.graph.graph import Graph
from otgraph.graph.pieces import Kind, Piece, Values, read_piece
from otgraph.rewrite.linear.composition import Composition, composition
from otgraph.rewrite.linear.fusion import Fusion, needs_add, needs_pad, over_growth
from otgraph.window import Window

Pieces = Mapping[fx.Node, Piece | str]
"""Every node that is a map; and, for others whose operator could be one, why they are none."""


def read_pieces(graph: Graph, kind: Kind, values: Values) -> Pieces:
    """The maps of ``graph`` whose channels lie as ``kind`` says, in program order."""
    found = ((node, read_piece(graph, node, kind, values)) for node in graph.module.graph.nodes)
    return {node: piece for node, piece in found if piece is not None}


def chains(pieces: Pieces) -> list[list[Piece]]:
    """The longest runs of maps of which each is read by the next and by nothing else, a host among them."""
    after: dict[fx.Node, Piece] = {}
    for piece in pieces.values():
        if (
            isinstance(piece, Piece)
            and isinstance(pieces.get(piece.data), Piece)
            and len(piece.data.users) == 1
        ):
            after[piece.data] = piece
    inner = set(after.values())
    runs: list[list[Piece]] = []
    for piece in pieces.values():
        if isinstance(piece, Piece) and piece not in inner:
            run = [piece]
            while run[-1].node in after:
                run.append(after[run[-1].node])
            if len(run) > 1 and any(p.host is not None for p in run):
                runs.append(run)
    return runs


@dataclass
class Chain:
    """One run of maps. ``spent``: multiply–accumulates of the program's first nodes, where a node is already
    fused. ``refused``: keys of fusions that are not to be made."""

    graph: Graph
    pieces: Sequence[Piece]
    growth: float
    spent: Mapping[fx.Node, int]
    refused: AbstractSet[tuple[str, ...]]

    def __post_init__(self) -> None:
        self._parts = Composition(self.pieces)

    def best(self) -> list[Fusion]:
        """The fusions of the cut with the fewest multiply–accumulates, where a fused node counts 1 / growth
        of its own; among equals, with the fewest nodes."""
        cuts: list[tuple[float, int, list[Fusion]]] = [(0.0, 0, [])]
        for end, piece in enumerate(self.pieces):
            macs, nodes, made = cuts[end]
            options = [(macs + piece.macs, nodes + 1, made)]
            for start in range(end - 1, -1, -1):
                fusion = self.fuse(start, end)
                if isinstance(fusion, Fusion):
                    macs, nodes, made = cuts[start]
                    cost = macs + fusion.macs_after / self.growth
                    options.append((cost, nodes + self._nodes(start, end, fusion), [*made, fusion]))
            cuts.append(min(options, key=lambda option: option[:2]))
        return cuts[-1][2]

    def fuse(self, start: int, end: int) -> Fusion | str:
        """The pieces ``start`` to ``end`` (inclusive) as one, or why not; an empty text where nothing is
        gained, or it was refused before."""
        pieces = self.pieces[start : end + 1]
        window = self._parts.window(start, end)
        if isinstance(window, str):
            return window
        hosts = [piece for piece in pieces if piece.host is not None]
        if not hosts or tuple(piece.node.name for piece in pieces) in self.refused:
            return ""
        fusion = self._fusion(pieces, hosts, window)
        if self._nodes(start, end, fusion) >= len(pieces):
            return ""
        return over_growth(fusion.macs_before, fusion.macs_after, self.growth) or fusion

    def _fusion(self, pieces: Sequence[Piece], hosts: Sequence[Piece], window: Window) -> Fusion:
        views = [piece.host for piece in hosts if piece.host is not None]
        return Fusion(
            entry=pieces[0].data,
            nodes=tuple(piece.node for piece in pieces),
            host=next((view for view in reversed(views) if not needs_add(self.graph, view)), views[-1]),
            window=window,
            fill=pieces[0].fill,
            macs_before=sum(self.spent.get(piece.node, piece.macs) for piece in pieces),
            macs_after=window.weights * pieces[-1].positions,
            compute=lambda: composition(pieces),
        )

    def _nodes(self, start: int, end: int, fusion: Fusion) -> int:
        """How many nodes the fused map takes: a padding that the operator has no argument for, and a bias
        after a plain ONNX product, each take one of their own."""
        pad = needs_pad(self.graph, fusion.window, fusion.fill)
        return 1 + pad + (needs_add(self.graph, fusion.host) and bool(self._parts.bias(start, end).any()))
