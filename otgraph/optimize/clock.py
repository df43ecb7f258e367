"""What deciding asks of an engine: how long networks take, and what single nodes take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from otgraph.allocate.cost import Polynomial, TimeTerm
from otgraph.engines.engine import Engine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import Comparison, Latency
from otgraph.optimize.fusing import FusionClock
from otgraph.pricing.timed_node import Candidates, TimedNode
from otgraph.pricing.timing import TimingOptions, affine_times, node_times


class Clock(Protocol):
    """Measures networks against the original (``Stopwatch``, or what a test makes up)."""

    def original(self) -> Latency:
        """The latency of the original by itself."""
        ...

    def ratio(self, candidate: Graph, *, quick: bool = False) -> Comparison:
        """``candidate`` against the original; ``quick``: less surely, for the steps of a search."""
        ...

    def between(self, a: Graph, b: Graph) -> Comparison:
        """``b`` against ``a``."""
        ...

    def fusions(self, graph: Graph, progress: Callable[[str], None]) -> FusionClock:
        """A judge of the fusions of ``graph`` while it is edited."""
        ...

    def describe(self) -> Mapping[str, str]:
        """What the engine says of itself."""
        ...


class TimePrices(Protocol):
    """What single nodes take."""

    def nodes(
        self, graph: Graph, axes: AxisMap, whole_ms: float, candidates: Candidates
    ) -> tuple[tuple[TimeTerm, ...], Polynomial]:
        """Every node over the candidate widths, and what no removal saves."""
        ...

    def others(self, nodes: Sequence[TimedNode], candidates: Candidates) -> Mapping[str, TimeTerm]:
        """Nodes that may take others' place, by name; those that the engine cannot run are left out."""
        ...


class EngineTimes:
    """``TimePrices`` as ``engine`` measures them."""

    def __init__(self, engine: Engine, options: TimingOptions) -> None:
        self._engine = engine
        self._options = options

    def nodes(
        self, graph: Graph, axes: AxisMap, whole_ms: float, candidates: Candidates
    ) -> tuple[tuple[TimeTerm, ...], Polynomial]:
        """``node_times``."""
        return node_times(graph, axes, self._engine, whole_ms, self._options, candidates)

    def others(self, nodes: Sequence[TimedNode], candidates: Candidates) -> Mapping[str, TimeTerm]:
        """``affine_times``."""
        return affine_times(nodes, self._engine, self._options, candidates)


class NoTimes:
    """``TimePrices`` for a budget that is not of time: nodes are named, and take nothing."""

    def nodes(
        self, graph: Graph, axes: AxisMap, whole_ms: float, candidates: Candidates
    ) -> tuple[tuple[TimeTerm, ...], Polynomial]:
        """Every call node, without a time."""
        calls = (node for node in graph.module.graph.nodes if node.op == "call_function")
        return tuple(TimeTerm(node.name) for node in calls), ()

    def others(self, nodes: Sequence[TimedNode], candidates: Candidates) -> Mapping[str, TimeTerm]:
        """The same of new nodes."""
        return {node.name: TimeTerm(node.name) for node in nodes}
