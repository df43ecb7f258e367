"""Carrying out collapses on behalf of a pass: the numbers are fitted to the original, or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from otgraph.calibrate.span_fit import SpanFit, fit_collapses
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.pointwise import is_pointwise
from otgraph.graph.span import Collapse, Span
from otgraph.rewrite.blank_fit import blank_fit
from otgraph.rewrite.collapse import collapse_spans
from otgraph.rewrite.contract import Context
from otgraph.rewrite.rewriter import Rewriter

Numbers = Literal["fitted", "blank"]


def is_activation(graph: Graph, span: Span) -> bool:
    """Whether ``span`` maps each element by itself, in the original ``graph``."""
    inside = [node for node in graph.module.graph.nodes if node.name in span.nodes]
    return bool(inside) and all(is_pointwise(node) for node in inside)


def run_collapses(
    rewriter: Rewriter, context: Context, collapses: Sequence[Collapse], numbers: Numbers
) -> tuple[Collapse, ...]:
    """Fit what needs a fit and carry all out.

    ``blank`` numbers make a network that is as fast as the fitted one and computes nothing of use. To be
    ``fitted`` they need calibration inputs: without, a map that has any is left out, with a remark.

    Returns:
        Those that were carried out.
    """
    original = context.original or rewriter.graph
    maps = [collapse for collapse in collapses if collapse.map != "identity"]
    if numbers == "blank":
        return collapse_spans(rewriter, collapses, blank_fits(original, maps, context.axes_of(original)))
    if context.data is None:
        for collapse in maps:
            message = "its map has to be fitted: calibration data was not given"
            rewriter.remark("missed", collapse.span.name, message)
        collapses, maps = [collapse for collapse in collapses if collapse not in maps], []
    fits: Mapping[str, SpanFit] = {}
    if context.data is not None and maps:
        fits = fit_collapses(original, context.data, maps, axes=context.axes_of(original))
    return collapse_spans(rewriter, collapses, fits)


def blank_fits(graph: Graph, collapses: Sequence[Collapse], axes: AxisMap) -> Mapping[str, SpanFit]:
    """``blank_fit`` of each that has one."""
    if not collapses:
        return {}
    found = {collapse.name: blank_fit(graph, axes, collapse) for collapse in collapses}
    return {name: fit for name, fit in found.items() if fit is not None}
