"""Which maps may stand for a span: those that fit its ends and multiply less than it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse, Estimator, MapKind, Span
from otgraph.graph.span_site import SpanSite, multiplies, site_of

GAIN = 2.0
"""A dense map may multiply so many times more than its span: engines run one dense convolution two to three
times faster, per product, than an inverted residual. The measured veto comes later."""


def find_collapses(
    graph: Graph,
    axes: AxisMap,
    spans: Sequence[Span],
    estimators: Sequence[Estimator] = ("least-squares",),
    gain: float = GAIN,
) -> tuple[Collapse, ...]:
    """The candidates: for each span the maps that it could become, each with each estimator that applies.

    *Identity* and *affine* where both ends have as many channels (the identity also as many positions),
    *linear* and *conv* where they multiply at most ``gain`` times what the span does (less than it does where
    it has but one product).
    """
    program = {node.name: node for node in graph.module.graph.nodes}
    found: list[Collapse] = []
    for span in spans:
        site = site_of(graph, axes, span)
        if site is None:
            continue
        work = [count for name in span.nodes if (count := multiplies(graph, axes, program[name]))]
        budget = gain * sum(work) if len(work) > 1 else 0.999 * sum(work)
        for kind, kernel in _maps(site, budget):
            if kind == "identity":
                found.append(Collapse(span, kind))
                continue
            for estimator in estimators:
                if estimator != "gaussian" or (kind != "conv" and site.same):
                    found.append(Collapse(span, kind, kernel, estimator))
    return tuple(found)


def _maps(site: SpanSite, budget: float) -> Iterator[tuple[MapKind, tuple[int, ...]]]:
    dense = site.samples * prod(site.space) * site.entry * site.exit
    if site.same:
        yield "identity", ()
    if site.entry == site.exit:
        yield "affine", ()
    if dense <= budget:
        yield "linear", ()
    kernel = site.kernel()
    if kernel is not None and dense * prod(kernel) <= budget:
        yield "conv", kernel
