"""The contract of a pass: what it is told, what it claims, and how it reports."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.rewrite.options import format_options
from otgraph.seed import check_seed
from otgraph.transport.coupling import Coupling

if TYPE_CHECKING:
    from otgraph.rewrite.rewriter import Rewriter


class Exactness(enum.Enum):
    """What a transform claims about the function it leaves behind; the pass manager checks it."""

    EXACT = "exact"
    """The same function on all inputs, up to rounding."""
    MASKED = "masked"
    """The masking law: the original with every removed index zeroed (and what is divided by there at 1)."""
    APPROXIMATE = "approximate"
    """Another function; the damage is predicted by the plan and measured after."""


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the graph.

    ``data``: unlabeled calibration inputs. ``original``: the graph before the first transform, the reference
    of every repair. ``couplings``: dim name → what to keep of it, decided before anything is edited.
    ``collapses``: spans and what becomes of them, decided likewise, by the names of the original's nodes.
    ``scratch``: a folder for what would not fit in memory. ``seed``: of every random choice. ``spared``: dims
    that a masked pass must leave whole, since cutting them was found to break the law. ``axes``: those of
    ``original``, where they are known already.
    """

    data: Data | None = None
    original: Graph | None = None
    couplings: Mapping[str, Coupling] = field(default_factory=dict[str, Coupling])
    collapses: tuple[Collapse, ...] = ()
    scratch: Path | None = None
    seed: int = 0
    spared: frozenset[str] = frozenset()
    axes: AxisMap | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def axes_of(self, graph: Graph) -> AxisMap:
        """The axes of ``graph``: the known ones where it has the nodes of the original, else its own."""
        names = {node.name for node in graph.module.graph.nodes if node.op == "call_function"}
        if self.axes is not None and names and names == self.axes.values.keys() & names:
            original = self.original
            before = () if original is None else original.module.graph.nodes
            if original is None or names == {node.name for node in before if node.op == "call_function"}:
                return self.axes
        return analyze(graph)


class Pass(abc.ABC):
    """A rewrite (``TransformPass``) or an analysis (``AnalysisPass``).

    A concrete pass is a frozen dataclass: its fields are its options, ``str()`` of it parses back, and its
    docstring is its manual page (a summary line, then the sections *What it does*, *When it applies*,
    *Exactness*, *Before and after* (a doctest), *Remarks*, *Options*, each a heading on a line of its own).
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["analysis", "transform"]]
    exactness: ClassVar[Exactness] = Exactness.EXACT

    @abc.abstractmethod
    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Edit ``rewriter.graph`` through ``rewriter`` only; say what was done or not through its remarks."""

    def __str__(self) -> str:
        return f"{self.name}{format_options(self)}"


class AnalysisPass(Pass):
    """Annotates nodes and remarks; the program stays as it is."""

    kind: ClassVar[Literal["analysis", "transform"]] = "analysis"


class TransformPass(Pass):
    """Edits the program, and claims by its ``exactness`` what that does to the function."""

    kind: ClassVar[Literal["analysis", "transform"]] = "transform"
