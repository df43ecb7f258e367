"""What went and what is new between two models, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NodeRef:
    """A node by its name (that of its first output where it has none) and its op type.

    ``compute``: it is one of the ops that hold a network's arithmetic.
    """

    name: str
    op: str
    compute: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Changes:
    """``gone``: the nodes of A that B has not, in A's order; ``new``: those of B that A has not, in B's.

    A node is the same where name and op type are; what it computes may still differ (fewer channels, other
    weights). ``shared`` counts those.
    """

    shared: int
    gone: tuple[NodeRef, ...]
    new: tuple[NodeRef, ...]

    @property
    def comparable(self) -> bool:
        """Names tell something: two files that share none come from different exporters."""
        return self.shared > 0 or not self.gone or not self.new

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {
            "shared": self.shared,
            "gone": [node.to_json() for node in self.gone],
            "new": [node.to_json() for node in self.new],
        }


def changes(a: Sequence[NodeRef], b: Sequence[NodeRef]) -> Changes:
    """Compare the nodes of two models; a name that occurs several times is taken as often as it occurs."""
    gone, new = _without(a, b), _without(b, a)
    return Changes(len(a) - len(gone), gone, new)


def by_op(nodes: Sequence[NodeRef]) -> str:
    """``2 Conv, 1 Add``: how many of each op, the most frequent first."""
    counts = Counter(node.op for node in nodes)
    return ", ".join(f"{n} {op}" for op, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _without(nodes: Sequence[NodeRef], others: Sequence[NodeRef]) -> tuple[NodeRef, ...]:
    left = Counter(others)
    kept: list[NodeRef] = []
    for node in nodes:
        if left[node] > 0:
            left[node] -= 1
        else:
            kept.append(node)
    return tuple(kept)
