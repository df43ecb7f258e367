"""A collapse without data: the map with arbitrary numbers, for whoever only asks for its time."""

from __future__ import annotations

import zlib

import torch

from otgraph.calibrate.span_fit import SpanFit
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_site import SpanSite, site_of
from otgraph.window import Window


def blank_fit(graph: Graph, axes: AxisMap, collapse: Collapse) -> SpanFit | None:
    """The map of ``collapse`` with small random numbers, always the same for one name; None where the ends of
    the span cannot be related.

    Args:
        graph: the original, in whose names the span is given, and ``axes`` its axes.
    """
    site = site_of(graph, axes, collapse.span)
    if site is None:
        return None
    window = _window(site, collapse)
    generator = torch.Generator().manual_seed(zlib.crc32(collapse.name.encode()))
    weight = bias = None
    if collapse.map != "identity":
        shape = _shape(window, collapse)
        spread = 0.5 / max(_row(shape), 1) ** 0.5
        weight = spread * torch.randn(shape, generator=generator)
        bias = 0.1 * torch.randn(site.exit, generator=generator)
    none = float("nan")
    return SpanFit(collapse, weight, bias, window, none, none, None, 0.0)


def _row(shape: tuple[int, ...]) -> int:
    """How many numbers make one output."""
    row = 1
    for size in shape[1:]:
        row *= size
    return row


def _window(site: SpanSite, collapse: Collapse) -> Window:
    if collapse.map == "conv":
        return site.window_of(collapse.kernel or site.kernel() or ())
    return site.window_of(groups=site.entry if collapse.map == "affine" else 1)


def _shape(window: Window, collapse: Collapse) -> tuple[int, ...]:
    if collapse.map == "affine" and window.axis == -1:
        return (window.outputs,)
    return (window.outputs, window.inputs // window.groups, *window.kernel)
