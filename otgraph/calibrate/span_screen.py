"""Discarding candidates before they are fitted: lower bounds of their error from samples of a span's ends."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from otgraph.calibrate.batches import Batch
from otgraph.calibrate.observe import observe
from otgraph.calibrate.rows import Sampling, gathered
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_site import SpanSite, site_of
from otgraph.transport.bures import rank_floor_of
from otgraph.transport.cost import FloatArray
from otgraph.transport.pair_bounds import PairBounds, hopeless, pair_bounds

ROWS = 512
"""Positions that are sampled of each end of a span, over all inputs that are looked at."""


@dataclass(frozen=True, eq=False)
class Screened:
    """The lower bound of one candidate's squared error, over the variance of the span's exit.

    ``bounds``: of the identity, in units of the values; None for other maps. ``paired``: the actual error of
    the identity on the same rows, in the unit of ``bound``; None for other maps. ``discarded``: the bound
    exceeds the threshold.
    """

    collapse: Collapse
    bound: float
    bounds: PairBounds | None
    paired: float | None
    discarded: bool
    seconds: float

    def __deepcopy__(self, memo: dict[int, Any]) -> Screened:
        return self  # a value; copies of a graph share it


def screen(
    graph: Graph,
    axes: AxisMap,
    batches: Sequence[Batch],
    collapses: Sequence[Collapse],
    threshold: float = 1.0,
) -> dict[str, Screened]:
    """Bound the candidates that a distribution can bound: identities, and linear maps that would have to
    make more channels than they get. ``threshold`` is in units of the variance of the exit.

    Both ends are seen at the same ``ROWS`` positions at most, and the bounds hold on these rows exactly.
    """
    sites = {c.name: site for c in collapses if (site := site_of(graph, axes, c.span)) is not None}
    wanted = [c for c in collapses if c.name in sites and _boundable(c, sites[c.name])]
    ends: dict[str, int] = {}
    for collapse in wanted:
        site = sites[collapse.name]
        ends[collapse.span.exit] = site.axis
        if collapse.map == "identity":
            ends[collapse.span.entry] = site.axis
    values = _samples(graph, batches, ends)
    found: dict[str, Screened] = {}
    for collapse in wanted:
        started = time.process_time()
        exits = values[collapse.span.exit]
        spread = float(np.square(exits - exits.mean(0)).sum(1).mean())
        unit = max(spread, 1e-30)
        if collapse.map == "identity":
            entries = values[collapse.span.entry]
            bounds = pair_bounds(entries, exits, threshold * spread)
            bound, paired = bounds.best, float(np.square(entries - exits).sum(1).mean()) / unit
        else:
            bounds, paired = None, None
            bound = rank_floor_of(exits, sites[collapse.name].entry)
        seconds = time.process_time() - started
        discarded = hopeless(bound, spread, threshold)
        found[collapse.name] = Screened(collapse, bound / unit, bounds, paired, discarded, seconds)
    return found


def _boundable(collapse: Collapse, site: SpanSite) -> bool:
    if collapse.map == "identity":
        return site.same
    return collapse.map == "linear" and site.exit > site.entry


def _samples(graph: Graph, batches: Sequence[Batch], ends: Mapping[str, int]) -> dict[str, FloatArray]:
    """Rows (m, C) of each value in ``ends`` (name → channel axis), all at the same positions, float64."""
    total = max(sum(len(batch.inputs[0]) for batch in batches), 1)
    each = max(1, ROWS // total)
    parts: dict[str, list[FloatArray]] = {name: [] for name in ends}
    for number, batch in enumerate(batches):

        def look(name: str, value: torch.Tensor, number: int = number) -> None:
            axis = ends[name]
            places = math.prod(value.shape[2:] if axis == 1 else value.shape[1:-1])
            rows = gathered(value, axis, Sampling.pick(places, each, number)).transpose(1, 2)
            parts[name].append(rows.reshape(-1, value.shape[axis]).double().numpy())

        observe(graph, batch.inputs, ends.keys(), look)
    return {name: np.concatenate(rows) for name, rows in parts.items()}
