"""A span in the graph as it is now, found by the names that its nodes had in the original, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.graph import Graph, label, op_name
from otgraph.graph.notes import is_stand_in, kept_of, original_name
from otgraph.graph.pointwise import ADDITIONS
from otgraph.graph.span import Span
from otgraph.rewrite.shapes import ValueInfo


@dataclass(frozen=True)
class Region:
    """``replaced`` is the node whose value a map gives: the branch of a residual span, else the exit.
    ``before`` and ``after`` are the shapes of the entry and of that node, on the graph's example."""

    entry: fx.Node
    exit: fx.Node
    replaced: fx.Node
    before: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype

    def same_channels(self) -> bool:
        """Whether what was cut of the entry and of the replaced node is the same."""
        a, b = kept_of(self.entry), kept_of(self.replaced)
        return a.keys() == b.keys() and all(np.array_equal(a[axis], b[axis]) for axis in a)


def find_region(graph: Graph, span: Span, infos: Mapping[fx.Node, ValueInfo]) -> Region | str:
    """The region, or in words why it is none: a node is gone, more than one value enters or leaves, the exit
    does not add the branch to the entry, or the types differ."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    missing = [name for name in span.nodes if name not in nodes]
    if missing:
        return f"its node {missing[0]} is gone"
    inside = frozenset(nodes[name] for name in span.nodes)
    last, entry = nodes[span.exit], _entry(nodes, span, inside, infos)
    if entry is None:
        return f"its entry {span.entry} is gone"
    replaced = last if span.branch is None else nodes.get(span.branch)
    if replaced is None:
        return f"its branch {span.branch} is gone"
    if replaced is not last and not _adds(last, entry, replaced):
        return f"its exit {label(last)} does not add its branch to its entry"
    reason = _leak(inside, entry, last, infos)
    return _region(entry, last, replaced, infos) if reason is None else reason


def left_of(node: fx.Node, axis: int) -> torch.Tensor | None:
    """The original's channels that ``node`` still has along ``axis``; None for all."""
    index = kept_of(node).get(axis)
    return None if index is None else torch.tensor([int(i) for i in index])


def _entry(
    nodes: Mapping[str, fx.Node], span: Span, inside: frozenset[fx.Node], infos: Mapping[fx.Node, ValueInfo]
) -> fx.Node | None:
    """By name; else what stands for it; else the one value that the region reads, as where the span before
    this one was deleted."""
    found = nodes.get(span.entry)
    if found is not None:
        return found
    for node in nodes.values():
        if is_stand_in(node) and original_name(node) == span.entry:
            return node
    sources = {source for node in inside for source in node.all_input_nodes if _flows(source, infos)}
    outside = sources - inside
    return outside.pop() if len(outside) == 1 else None


def _flows(source: fx.Node, infos: Mapping[fx.Node, ValueInfo]) -> bool:
    """Whether it is a computed tensor of real numbers, not a weight nor size arithmetic."""
    value = infos.get(source)
    return source.op != "get_attr" and value is not None and value.dtype.is_floating_point


def _adds(node: fx.Node, entry: fx.Node, branch: fx.Node) -> bool:
    plain = op_name(node) in ADDITIONS and argument(node, 2, "alpha", 1) == 1
    return plain and set(node.args[:2]) == {entry, branch}


def _leak(
    nodes: frozenset[fx.Node], entry: fx.Node, last: fx.Node, infos: Mapping[fx.Node, ValueInfo]
) -> str | None:
    """Where a second value enters or leaves."""
    for node in sorted(nodes):
        for user in node.users:
            if node is not last and not _serves(user, nodes):
                return f"{label(node)} is also read by {label(user)}, which is outside"
        for source in node.all_input_nodes:
            if source is not entry and source not in nodes and _flows(source, infos):
                return f"{label(node)} reads {label(source)}, which is neither inside nor the entry"
    return None


def _serves(node: fx.Node, nodes: frozenset[fx.Node]) -> bool:
    """Whether ``node`` is one of them or there only for them, as size arithmetic is that a cut has added."""
    return node in nodes or (bool(node.users) and all(_serves(user, nodes) for user in node.users))


def _region(
    entry: fx.Node, last: fx.Node, replaced: fx.Node, infos: Mapping[fx.Node, ValueInfo]
) -> Region | str:
    for node in (entry, replaced):
        if node not in infos:
            return f"{label(node)} is no single tensor"
    a, b = infos[entry], infos[replaced]
    if a.dtype != b.dtype or not a.dtype.is_floating_point:
        return f"{label(entry)} is {_type(a)} and {label(replaced)} is {_type(b)}"
    return Region(entry, last, replaced, a.shape, b.shape, a.dtype)


def _type(info: ValueInfo) -> str:
    return str(info.dtype).removeprefix("torch.")


def cut_elsewhere(node: fx.Node, axis: int) -> int | None:
    """An axis other than ``axis`` along which ``node`` was cut."""
    return next((number for number in kept_of(node) if number != axis), None)
