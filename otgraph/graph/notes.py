"""What passes write onto nodes for others to read, as ``node.meta["otgraph"]``: one typed key each.

A note is declared beside the type of what it holds: those of the rewrites here, ``width`` in
``otgraph.calibrate.width`` and ``depth`` in ``otgraph.calibrate.depth``. Passes write through ``Rewriter``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from torch import fx

from otgraph.graph.graph import Graph

T = TypeVar("T")

Kept = Mapping[int, npt.NDArray[np.int64]]
"""Axis → the positions of the original's axis that are left, in order."""


@dataclass(frozen=True)
class Note(Generic[T]):
    """One key, and the type of what is written under it."""

    key: str

    def of(self, node: fx.Node) -> T | None:
        """What ``node`` carries under this key; None where that is nothing."""
        return node.meta.get(_META, {}).get(self.key)

    def write(self, node: fx.Node, value: T) -> None:
        """Let ``node`` carry ``value``. What it carried stays as it was for copies that share it."""
        node.meta[_META] = {**node.meta.get(_META, {}), self.key: value}


KEPT: Note[Kept] = Note("kept")
"""On a node whose value lost positions: those that are left, in terms of the axis before the first cut."""

STANDS_FOR: Note[str] = Note("stands_for")
"""On a node that a rewrite put in the place of another: the name of the original's node."""

FITTED_ON: Note[str] = Note("fitted_on")
"""On the map that replaced a span: the name of the original's node on whose value its numbers were made."""


def kept_of(node: fx.Node) -> Kept:
    """Per axis that lost positions those that are left."""
    return KEPT.of(node) or {}


def original_name(node: fx.Node) -> str:
    """The node of the original whose value ``node`` reproduces: that of its name, unless a rewrite put
    ``node`` in the place of another and noted which."""
    return STANDS_FOR.of(node) or node.name


def is_stand_in(node: fx.Node) -> bool:
    """Whether a rewrite put ``node`` in the place of another."""
    return original_name(node) != node.name


def stood_for(graph: Graph) -> frozenset[str]:
    """The nodes of the original that nodes of ``graph`` stand for."""
    return frozenset(original_name(node) for node in graph.module.graph.nodes if is_stand_in(node))


def inherit_notes(heir: fx.Node, node: fx.Node) -> None:
    """Let ``heir`` carry what ``node`` does, and nothing else, and stand for it."""
    carried = {**node.meta.get(_META, {}), STANDS_FOR.key: original_name(node)}
    heir.meta[_META] = carried


def clear_notes(node: fx.Node) -> None:
    """Let ``node`` carry nothing."""
    node.meta.pop(_META, None)


_META = "otgraph"
