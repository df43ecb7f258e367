"""Fusing affine nodes until nothing more can be: chains first, then the sums of branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import get_args

from torch import fx

from otgraph.graph.graph import label
from otgraph.graph.pieces import Kind, Piece, Value
from otgraph.rewrite.linear.branches import BranchLimits, fuse_sum
from otgraph.rewrite.linear.chains import Chain, Pieces, chains, read_pieces
from otgraph.rewrite.linear.fusion import Accept, Fusion, accept_all, not_finite
from otgraph.rewrite.linear.identities import drop_identities
from otgraph.rewrite.linear.place import place
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import ValueInfo, value_infos
from otgraph.window import Pads

_KINDS: tuple[Kind, ...] = get_args(Kind)


def fuse_linear(rewriter: Rewriter, growth: float = 1.0, accept: Accept = accept_all) -> None:
    """Put one node in the place of several wherever that is exact and within ``growth``.

    Args:
        growth: largest multiply–accumulates of a fused node, in those of the nodes it replaces.
        accept: asked before each edit, once per fusion; a reason that it gives is remarked, and other
            fusions of the same nodes are tried.
    """
    drop_identities(rewriter)
    state = _State(rewriter, growth, accept, dict(value_infos(rewriter.graph)))
    while any(state.fuse_chains(kind) or state.fuse_sums(kind) for kind in _KINDS):
        pass
    for kind in _KINDS:
        state.explain(kind)


@dataclass
class _State:
    rewriter: Rewriter
    growth: float
    accept: Accept
    values: dict[fx.Node, Value]
    spent: dict[fx.Node, int] = field(default_factory=dict[fx.Node, int])
    refused: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])
    agreed: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])
    moved: dict[fx.Node, fx.Node] = field(default_factory=dict[fx.Node, fx.Node])

    def fuse_chains(self, kind: Kind) -> bool:
        """Fuse within every chain; whether anything was edited."""
        pieces = read_pieces(self.rewriter.graph, kind, self.values)
        edited = [self._fuse_chain(run) for run in chains(pieces)]
        return any(edited)

    def fuse_sums(self, kind: Kind) -> bool:
        """Fuse the first sum that can be; whether there was one."""
        pieces = read_pieces(self.rewriter.graph, kind, self.values)
        for _, found in self._sums(kind, pieces):
            if isinstance(found, Fusion) and self._accepted(found):
                self._apply(found)
                return True
        return False

    def explain(self, kind: Kind) -> None:
        """Say of everything that stays why it does."""
        pieces = read_pieces(self.rewriter.graph, kind, self.values)
        said = [*self._unread(pieces), *self._forks(pieces)]
        for run in chains(pieces):
            chain = self._chain(run)
            for at in range(len(run) - 1):
                reason = chain.fuse(at, at + 1)
                if isinstance(reason, str) and reason:
                    said.append((run[at + 1].node, f"not fused with {label(run[at].node)}: {reason}"))
        for node, found in self._sums(kind, pieces):
            if isinstance(found, str) and found:
                said.append((node, f"its branches are not fused: {found}"))
        for node, reason in said:
            self.rewriter.remark("missed", label(node), reason)

    def _fuse_chain(self, run: list[Piece]) -> bool:
        while True:
            wanted = self._chain(run).best()
            if all(self._accepted(fusion) for fusion in wanted):
                break
        for fusion in wanted:
            self._apply(fusion)
        return bool(wanted)

    def _chain(self, run: list[Piece]) -> Chain:
        return Chain(self.rewriter.graph, run, self.growth, self.spent, self.refused)

    def _sums(self, kind: Kind, pieces: Pieces) -> Iterator[tuple[fx.Node, Fusion | str | None]]:
        limits = BranchLimits(self.growth, self.spent, self.refused)
        graph = self.rewriter.graph
        for node in list(graph.module.graph.nodes):
            yield node, fuse_sum(graph, node, kind, pieces, self.values, limits)

    def _accepted(self, fusion: Fusion) -> bool:
        if fusion.key in self.agreed:
            return True
        reason = not_finite(self.rewriter.graph, fusion) or self.accept(fusion)
        (self.agreed if reason is None else self.refused).add(fusion.key)
        if reason is not None:
            self.rewriter.remark("missed", label(fusion.nodes[-1]), f"{fusion.title} not fused: {reason}")
        return reason is None

    def _apply(self, fusion: Fusion) -> None:
        """Make the edit, and keep what is known of the nodes true."""
        self.agreed.clear()  # names stay, numbers change
        last, host, title = fusion.nodes[-1], fusion.host.node, fusion.title
        where, entry = label(last), self.moved.get(fusion.entry, fusion.entry)
        value = place(self.rewriter, replace(fusion, entry=entry))
        self.values[value] = self.values[host] = self.values[last]
        source = host.args[0]
        if isinstance(source, fx.Node) and source not in self.values:
            self.values[source] = _padded(self.values[entry], fusion.window.padding)
        self.moved[last] = value
        self.spent[value] = 0
        self.spent[host] = fusion.macs_before
        self.rewriter.remark(
            "applied",
            where,
            f"{title} fused into {label(host)}",
            macs_before=fusion.macs_before,
            macs_after=fusion.macs_after,
        )

    def _unread(self, pieces: Pieces) -> Iterator[tuple[fx.Node, str]]:
        """Nodes next to a host that nearly are maps."""
        for node, reason in pieces.items():
            if isinstance(reason, str):
                around = (*node.all_input_nodes, *node.users)
                if any(_is_host(pieces.get(other)) for other in around):
                    yield node, reason

    def _forks(self, pieces: Pieces) -> Iterator[tuple[fx.Node, str]]:
        """Maps that read what others read too, one of the two a host."""
        for node, piece in pieces.items():
            before = pieces.get(piece.data) if isinstance(piece, Piece) else None
            if isinstance(before, Piece) and len(before.node.users) > 1:
                others = ", ".join(label(user) for user in before.node.users if user is not node)
                if _is_host(piece) or _is_host(before):
                    yield node, f"not fused with {label(before.node)}, which also feeds {others}"


def _is_host(piece: Piece | str | None) -> bool:
    return isinstance(piece, Piece) and piece.host is not None


def _padded(value: Value, pads: Pads) -> ValueInfo:
    sizes = zip(value.shape[2:], pads, strict=True)
    return ValueInfo((*value.shape[:2], *(n + before + after for n, (before, after) in sizes)), value.dtype)
