"""A collapse without data: the map with arbitrary numbers, for whoever only asks for its time."""

from __future__ import annotations

import zlib

import torch

from otgraph.calibrate.span_fit import SpanFit
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_site import SpanSite, site_of


def blank_fit(graph: Graph, axes: AxisMap, collapse: Collapse) -> SpanFit | None:
    """The map of ``collapse`` with small random numbers, always the same for one name; None where the ends of
    the span cannot be related.

    Args:
        graph: the original, in whose names the span is given, and ``axes`` its axes.
    """
    site = site_of(graph, axes, collapse.span)
    if site is None:
        return None
    kernel = _kernel(site, collapse)
    generator = torch.Generator().manual_seed(zlib.crc32(collapse.name.encode()))
    weight = bias = None
    if collapse.map != "identity":
        shape = _shape(site, collapse, kernel)
        spread = 0.5 / max(_row(shape), 1) ** 0.5
        weight = spread * torch.randn(shape, generator=generator)
        bias = 0.1 * torch.randn(site.exit, generator=generator)
    pairs = site.padding(kernel) if site.axis == 1 else ()
    padding = (*(before for before, _ in pairs), *(after for _, after in pairs))
    groups = site.entry if collapse.map == "affine" and site.axis == 1 else 1
    none = float("nan")
    return SpanFit(collapse, weight, bias, site.stride, padding, groups, site.axis, none, none, None, 0.0)


def _row(shape: tuple[int, ...]) -> int:
    """How many numbers make one output."""
    row = 1
    for size in shape[1:]:
        row *= size
    return row


def _kernel(site: SpanSite, collapse: Collapse) -> tuple[int, ...]:
    if collapse.map == "conv":
        return collapse.kernel or site.kernel() or (1,) * len(site.stride)
    return (1,) * len(site.stride)


def _shape(site: SpanSite, collapse: Collapse, kernel: tuple[int, ...]) -> tuple[int, ...]:
    if collapse.map == "affine":
        return (site.exit, 1, *kernel) if site.axis == 1 else (site.exit,)
    return (site.exit, site.entry, *kernel)
