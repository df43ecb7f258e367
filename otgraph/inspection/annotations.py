"""What ``annotate-width`` left on the nodes, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otgraph.calibrate.width import WIDTH, Width
from otgraph.graph.graph import Graph
from otgraph.transport.bound import certify

SHARES = (75, 50, 25)
"""Per cent of a dim's channels at which its curve is shown."""


@dataclass(frozen=True)
class CurvePoint:
    """``kept`` channels of a dim stay. ``cost``: what the criterion says that costs, 1 = dropping them all.
    ``gap``: the share of its re-routing cost that another set as large could save at most (certified)."""

    share: int
    kept: int
    cost: float
    gap: float


@dataclass(frozen=True)
class DimCurve:
    """The curve of one dim under ``criterion``, at ``SHARES``; ``node`` is where it is annotated."""

    dim: str
    node: str
    size: int
    criterion: str
    points: tuple[CurvePoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "points": [dict(vars(point)) for point in self.points]}


def annotated_curves(graph: Graph) -> tuple[DimCurve, ...]:
    """The curves that nodes of ``graph`` carry, in program order; none before ``annotate-width`` has run."""
    found: list[DimCurve] = []
    for node in graph.module.graph.nodes:
        found += [
            DimCurve(name, node.name, width.size, width.criterion, _points(width))
            for name, width in (WIDTH.of(node) or {}).items()
        ]
    return tuple(found)


def _points(width: Width) -> tuple[CurvePoint, ...]:
    problem = width.problem()
    whole = float(width.curve.distortion[0])
    points: list[CurvePoint] = []
    for share in SHARES:
        k = max(1, width.size * share // 100)
        cost = float(width.curve.distortion[k]) / whole if whole > 0 else 0.0
        points.append(CurvePoint(share, k, cost, certify(problem, width.choose(k)).gap))
    return tuple(points)
