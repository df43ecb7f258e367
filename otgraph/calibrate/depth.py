"""What depth could be taken out of a graph: every span with the maps that fit it, every activation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from otgraph.calibrate.activations import ActivationStatistics, collect_activations
from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.span_fit import FitOptions, SpanFit, fit_collapses
from otgraph.calibrate.span_screen import Screened, screen
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.notes import Note
from otgraph.graph.span import Collapse, Estimator, Span
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import RUN, activation_nodes, find_spans

T = TypeVar("T")

ESTIMATORS: tuple[Estimator, ...] = ("least-squares",)


@dataclass(frozen=True, eq=False)
class SpanDepth:
    """One span with its candidates.

    ``fits``: by the names of the collapses; those that were ``screened`` out have none.
    ``damages``: what each does to the outputs by itself, to first order and unrepaired, where that was asked
    for.
    """

    span: Span
    collapses: tuple[Collapse, ...]
    fits: Mapping[str, SpanFit]
    screened: Mapping[str, Screened]
    damages: Mapping[str, float] = field(default_factory=dict[str, float])

    def __deepcopy__(self, memo: dict[int, Any]) -> SpanDepth:
        return self  # a value; copies of a graph share it

    def best(self, map_: str) -> SpanFit | None:
        """The fit of that kind of map with the smallest held-out error; None where there is none."""
        fits = [self.fits[c.name] for c in self.collapses if c.map == map_ and c.name in self.fits]
        return min(fits, key=lambda fit: fit.error, default=None)

    @property
    def discarded(self) -> tuple[Collapse, ...]:
        """The candidates that a lower bound ruled out before they were fitted."""
        return tuple(c for c in self.collapses if c.name in self.screened and self.screened[c.name].discarded)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        maps: list[dict[str, Any]] = []
        for collapse in self.collapses:
            fit, bound = self.fits.get(collapse.name), self.screened.get(collapse.name)
            maps.append(
                {
                    "map": collapse.map,
                    "kernel": list(collapse.kernel),
                    "estimator": None if collapse.map == "identity" else collapse.estimator,
                    "error": None if fit is None else fit.error,
                    "effect": None if fit is None else fit.effect,
                    "ridge": None if fit is None or fit.ridge == float("inf") else fit.ridge,
                    "seconds": None if fit is None else round(fit.seconds, 4),
                    "bound": None if bound is None else bound.bound,
                    "discarded": bound is not None and bound.discarded,
                    "damage": self.damages.get(collapse.name),
                }
            )
        return {
            "span": self.span.name,
            "entry": self.span.entry,
            "exit": self.span.exit,
            "branch": self.span.branch,
            "nodes": len(self.span.nodes),
            "maps": maps,
        }


DEPTH: Note[Mapping[str, SpanDepth | ActivationStatistics]] = Note("depth")
"""On the exit of a span or an activation, by the name of the span; what ``annotate-depth`` leaves."""


@dataclass(frozen=True)
class DepthOptions:
    """``run``: at most so many minimal spans make one. ``threshold``: a candidate whose squared error is
    bound to exceed so many times the variance of the exit is not fitted. ``screened``: inputs that the
    bounds look at. ``observed``: inputs that activations are counted on."""

    run: int = RUN
    estimators: tuple[Estimator, ...] = ESTIMATORS
    threshold: float = 1.0
    screened: int = 32
    observed: int = 64
    fit: FitOptions = FitOptions()  # noqa: RUF009  (a frozen value)


@dataclass(frozen=True, eq=False)
class DepthAnalysis:
    """``spans`` and ``activations`` in program order. ``seconds``: CPU time of screening, of fitting and of
    counting activations."""

    spans: tuple[SpanDepth, ...]
    activations: tuple[ActivationStatistics, ...]
    seconds: Mapping[str, float]

    @property
    def candidates(self) -> int:
        """How many maps were considered."""
        return sum(len(span.collapses) for span in self.spans)

    @property
    def discarded(self) -> int:
        """How many a lower bound ruled out."""
        return sum(len(span.discarded) for span in self.spans)


def candidates_of(graph: Graph, axes: AxisMap, options: DepthOptions) -> dict[Span, tuple[Collapse, ...]]:
    """Every span of ``graph`` with the maps that may stand for it, in program order."""
    spans = find_spans(graph, axes, options.run)
    found: dict[Span, list[Collapse]] = {span: [] for span in spans}
    for collapse in find_collapses(graph, axes, spans, options.estimators):
        found[collapse.span].append(collapse)
    return {span: tuple(collapses) for span, collapses in found.items()}


def analyze_depth(
    graph: Graph, axes: AxisMap, data: Data, options: DepthOptions | None = None
) -> DepthAnalysis:
    """Find spans, bound their candidates, fit those that are not hopeless, and count activations.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or DepthOptions()
    candidates = candidates_of(graph, axes, options)
    everything = [collapse for collapses in candidates.values() for collapse in collapses]
    marks = [time.process_time()]
    seed, size = options.fit.seed, options.fit.batch
    few = split_batches(graph, data, 1, batch_size=size, limit=options.screened, seed=seed)
    bounds = screen(graph, axes, few, everything, options.threshold)
    marks.append(time.process_time())
    left = [c for c in everything if c.name not in bounds or not bounds[c.name].discarded]
    fits = fit_collapses(graph, data, left, options.fit, axes)
    marks.append(time.process_time())
    observed = split_batches(graph, data, 1, batch_size=size, limit=options.observed, seed=seed)
    activations = collect_activations(graph, axes, observed, activation_nodes(graph, axes))
    marks.append(time.process_time())
    spans = tuple(
        SpanDepth(span, collapses, _named(fits, collapses), _named(bounds, collapses))
        for span, collapses in candidates.items()
    )
    names = ("screening", "fitting", "activations")
    spent = {name: after - before for name, (before, after) in zip(names, pairwise(marks), strict=True)}
    return DepthAnalysis(spans, tuple(activations.values()), spent)


def _named(found: Mapping[str, T], collapses: Sequence[Collapse]) -> dict[str, T]:
    return {c.name: found[c.name] for c in collapses if c.name in found}
