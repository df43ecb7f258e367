"""The map that stands for a span, fitted in closed form: one streamed pass over the data for many spans."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from otgraph.calibrate.batches import Batch, split_batches
from otgraph.calibrate.rows import Sampling
from otgraph.calibrate.span_rows import Source
from otgraph.calibrate.span_solve import Solved, solve_span
from otgraph.calibrate.span_sums import SpanCollector, Watched, bytes_of, widest
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_site import SpanSite, site_of
from otgraph.window import Window

MAX_WIDTH = 8192
"""A regression of more columns than this (half a gigabyte) is refused."""


@dataclass(frozen=True, eq=False)
class SpanFit:
    """A collapse with its numbers.

    Where the span has a ``branch`` the map stands for the branch, and the addition stays (the identity then
    means that nothing is added).
    """

    collapse: Collapse
    """The span and the kind of its map."""
    weight: torch.Tensor | None
    """None for the identity. Over ``axis`` 1: (C, 1, *1s) for an affine map, (out, in, *kernel) for a linear
    map or a convolution; over ``axis`` -1: (C,) and (out, in)."""
    bias: torch.Tensor | None
    """(out,); None for the identity."""
    window: Window
    """The geometry of the map, with C groups for an affine one."""
    error: float
    """Squared error over the energy of what is reproduced (the branch's update; else the exit less its mean
    per channel), on held-out inputs."""
    fitted: float
    """The same on the inputs fitted on."""
    ridge: float | None
    """The one chosen; None where there is none."""
    seconds: float
    """CPU time of this fit, its share of the pass over the data included."""
    note: str = ""
    """What was done otherwise than asked."""
    effect: float = float("nan")
    """The held-out squared error over the variance of the exit, comparable between spans with and without a
    branch."""

    @property
    def axis(self) -> int:
        """That of the channels, 1 or -1."""
        return self.window.axis


@dataclass(frozen=True)
class FitOptions:
    """``inputs``: at most so many are used; one part in ``folds``, a stretch of neighbors, is held out.
    ``memory``: of the sums that are collected in one pass; more need another. ``sampling``: which positions
    of each input."""

    inputs: int = 256
    folds: int = 4
    batch: int = 16
    memory: int = 1536 << 20
    sampling: Sampling = Sampling(positions=16, per_column=12, least=4096)  # noqa: RUF009  (a frozen value)
    seed: int = 0


def fit_collapses(
    graph: Graph,
    data: Data,
    collapses: Sequence[Collapse],
    options: FitOptions | None = None,
    axes: AxisMap | None = None,
) -> dict[str, SpanFit]:
    """The fits of ``collapses`` by their names; ``graph`` is run once over ``data`` for all of them, or more
    often where their sums would not fit in memory together.

    Spans with the same entry share their sums of the entry; the maps of one span share all. Left out are
    spans whose ends cannot be related (``site_of``) and maps of more than ``MAX_WIDTH`` columns.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or FitOptions()
    axes = axes or analyze(graph)
    wanted = [(collapse, w) for collapse in collapses if (w := _watch(graph, axes, collapse)) is not None]
    batches = split_batches(
        graph, data, options.folds, batch_size=options.batch, limit=options.inputs, seed=options.seed
    )
    best = {(w.span.entry, w.span.exit): w for w in widest(w for _, w in wanted)}
    fits: dict[str, SpanFit] = {}
    for group in _groups(list(best.values()), options.memory):
        ends = {(w.span.entry, w.span.exit) for w in group}
        mine = [(c, w) for c, w in wanted if (w.span.entry, w.span.exit) in ends]
        fits |= _fit_group(graph, batches, mine, group, options)
    return {collapse.name: fits[collapse.name] for collapse, _ in wanted}


def misfit(graph: Graph, axes: AxisMap, collapse: Collapse) -> str | None:
    """Why the map of ``collapse`` cannot be fitted as it is asked for, whatever the data, or None."""
    site = site_of(graph, axes, collapse.span)
    if collapse.map == "identity":
        return None  # there is nothing to fit
    if site is None:
        return "its ends cannot be related"
    if collapse.estimator == "gaussian" and (collapse.map == "conv" or not site.same):
        return "there is no Gaussian map for it; choose another estimator"
    return _mismatch(site, collapse)


def _mismatch(site: SpanSite, collapse: Collapse) -> str | None:
    """Why the ends of a span and its map do not go together."""
    kernel = collapse.kernel if collapse.map == "conv" else ()
    slides = len(site.stride) if site.axis == 1 else 0
    if collapse.map == "identity":
        return None if site.same else "its ends differ in shape"
    if collapse.map == "affine" and site.entry != site.exit:
        return f"{site.entry} channels enter and {site.exit} leave"
    if collapse.map == "conv" and (not slides or len(kernel) != slides):
        return f"its kernel has {len(kernel)} sizes, for {slides} axes to slide along"
    if site.entry * prod(kernel) > MAX_WIDTH:
        return f"it would have more than {MAX_WIDTH:,} columns"
    if slides and site.window_of(kernel).positions(site.source) != site.space:
        return f"it cannot make {list(site.space)} of {list(site.source)} positions"
    return None


def _watch(graph: Graph, axes: AxisMap, collapse: Collapse) -> Watched | None:
    site = site_of(graph, axes, collapse.span)
    if site is None or _mismatch(site, collapse) is not None:
        return None
    kernel = collapse.kernel if collapse.map == "conv" else ()
    return Watched(collapse.span, site, Source.of(site, collapse.span.entry, kernel))


def _groups(watched: Sequence[Watched], memory: int) -> Iterator[list[Watched]]:
    """Spans whose sums fit in memory together, in order; those with one source stay neighbors."""
    group: list[Watched] = []
    used = 0
    for w in sorted(watched, key=lambda w: w.source.entry):
        size = bytes_of(w)
        if group and used + size > memory:
            yield group
            group, used = [], 0
        group.append(w)
        used += size
    if group:
        yield group


def _fit_group(
    graph: Graph,
    batches: Sequence[Batch],
    wanted: Sequence[tuple[Collapse, Watched]],
    group: Sequence[Watched],
    options: FitOptions,
) -> dict[str, SpanFit]:
    started = time.process_time()
    samples = sum(len(batch.inputs[0]) for batch in batches)
    collector = SpanCollector(group, samples, options.sampling)
    collector.run(graph, batches)
    share = (time.process_time() - started) / max(len(wanted), 1)
    collected = {(w.span.entry, w.span.exit): w for w in group}
    fits: dict[str, SpanFit] = {}
    for collapse, own in wanted:
        started = time.process_time()
        watched = collected[own.span.entry, own.span.exit]
        solved = solve_span(
            watched, collapse, collector.sums(watched, "fit"), collector.sums(watched, "held")
        )
        seconds = share + time.process_time() - started
        fits[collapse.name] = _lay(collapse, own, solved, seconds)
    return fits


def _lay(collapse: Collapse, watched: Watched, solved: Solved, seconds: float) -> SpanFit:
    """The numbers in the shape that a network wants them in."""
    site, source = watched.site, watched.source
    figures = (solved.error, solved.fitted, solved.ridge, seconds, solved.note, solved.effect)
    if collapse.map == "identity":
        return SpanFit(collapse, None, None, site.window_of(), *figures)
    weight, bias = solved.weight.clone(), solved.bias.float()
    if watched.based:
        weight[source.own, torch.arange(site.exit)] += 1
    if collapse.map == "affine":
        scale = weight.diagonal().float()
        laid = scale.clone() if site.axis == -1 else scale.view(-1, 1, *(1,) * len(site.stride))
        return SpanFit(collapse, laid, bias, site.window_of(groups=site.exit), *figures)
    window = site.window_of(source.window.kernel)
    laid = weight.T.reshape(site.exit, site.entry, *window.kernel).float().contiguous()
    return SpanFit(collapse, laid, bias, window, *figures)
