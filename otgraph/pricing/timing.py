"""What the nodes of a graph take in time, as functions of the widths of its dims.

Convolutions and products are timed one by one on the engine over the widths they may get
(``latency.kernels``); the other nodes are priced by the elements they make (``optimize.elementwise``). All
are on one scale per engine object, so sums of them rank choices and predict ratios; the closed loop scales
them to the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_
from pathlib import Path

from otgraph.allocate.cost import Polynomial, Term, TimeTable, TimeTerm, collect, multiply
from otgraph.engines.engine import Engine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.latency.kernel import Kernel
from otgraph.latency.kernel_table import KernelTable, KernelTime
from otgraph.latency.kernels import Grid, time_kernels
from otgraph.latency.table import LatencyTable
from otgraph.pricing.elementwise import element_times, times
from otgraph.pricing.lengths import expand
from otgraph.pricing.timed_node import Candidates, TimedNode, timed_nodes
from otgraph.remark import Remark

OVERHEAD = 0.04
"""The share of a network's time that no node of it takes."""


@dataclass(frozen=True)
class TimingOptions:
    """How kernels are timed: on so many ``threads``, at widths that are multiples of ``multiple`` where a
    smooth form is fitted; ``cache``: the folder of the table of what was measured before, None for no
    table; ``note`` is told what is wrong with it."""

    threads: int = 1
    multiple: int = 8
    cache: Path | None = None
    progress: Callable[[str], None] = lambda _: None
    note: Callable[[Remark], None] = lambda _: None


TABLE_DIMS = 2
"""A node whose widths depend on more dims is priced by a smooth form."""


def node_times(
    graph: Graph,
    axes: AxisMap,
    engine: Engine,
    whole_ms: float,
    options: TimingOptions,
    candidates: Candidates,
) -> tuple[tuple[TimeTerm, ...], Polynomial]:
    """Milliseconds of every node of ``graph`` in one inference (batch 1) over the candidate widths, and what
    no node's removal saves.

    A convolution or product whose widths depend on at most two dims has a table over them; the others have
    terms. Their sum is near ``whole_ms`` at full widths, not equal to it: ``whole_ms`` only says how much
    there can be for nodes that are not timed.
    """
    nodes = timed_nodes(graph, axes)
    timed = affine_times(nodes, engine, options, candidates)
    full = {dim.name: dim.size for dim in axes.prunable()}
    known = sum(time.at(full) for time in timed.values())
    rest = whole_ms * (1 - OVERHEAD) - known
    others = element_times(graph, axes, rest, candidates)
    total = known + sum(time.at(full) for time in others)
    overhead = total * OVERHEAD / (1 - OVERHEAD)
    return (*timed.values(), *others), (Term(overhead),)


def affine_times(
    nodes: Sequence[TimedNode], engine: Engine, options: TimingOptions, candidates: Candidates
) -> dict[str, TimeTerm]:
    """The time of each node by its name, of a graph's own (``timed_nodes``) or of nodes that might take
    others' place; one that the engine cannot run by itself is left out.

    For a k×k convolution in place of a span: ``reads`` is the channel axis of the span's entry
    (``axes.values[entry][0][1]``), ``makes`` that of its exit. All times are comparable with each other and
    with those of ``node_times``.
    """
    tables = _tables(nodes, engine, options, candidates)
    return {
        node.name: _node_time(node, tables[node.kernel], candidates)
        for node in nodes
        if node.kernel in tables
    }


def _tables(
    nodes: Sequence[TimedNode], engine: Engine, options: TimingOptions, candidates: Candidates
) -> dict[Kernel, KernelTable]:
    wanted: dict[Kernel, list[Grid]] = {}
    for node in nodes:
        wanted.setdefault(node.kernel, []).append(_grid(node, candidates, options.multiple))
    table = None
    if options.cache is not None:
        table = LatencyTable(
            options.cache / "latency.sqlite", {**engine.describe(), "threads": options.threads}
        )
    found = time_kernels(
        engine,
        {kernel: reduce(or_, grids) for kernel, grids in wanted.items()},
        threads=options.threads,
        table=table,
        progress=options.progress,
    )
    for remark in () if table is None else table.remarks:
        options.note(remark)
    return found


def _grid(node: TimedNode, candidates: Candidates, multiple: int) -> Grid:
    """Every width the node may get; quarters of the full widths where a smooth form is fitted."""
    kernel, names = node.kernel, node.varying(candidates)
    if kernel.groups > 1:
        return Grid(frozenset([kernel.inputs]), frozenset([kernel.outputs]))
    if len(names) > TABLE_DIMS:
        inputs, outputs = (
            _quarters(size, multiple) if any(name in candidates for name in axis.dims()) else [size]
            for size, axis in ((kernel.inputs, node.reads), (kernel.outputs, node.makes))
        )
        return Grid(frozenset(inputs), frozenset(outputs))
    lengths = [node.lengths(widths) for widths in _combinations(names, candidates)]
    return Grid(frozenset(i for i, _ in lengths), frozenset(o for _, o in lengths))


def _quarters(size: int, multiple: int) -> list[int]:
    shares = (max(multiple * round(size * q / multiple), multiple) for q in (0.75, 0.5, 0.25))
    return sorted({size, *(width for width in shares if width < size)})


def _combinations(names: Sequence[str], candidates: Candidates) -> list[dict[str, int]]:
    widths = product(*(candidates[name] for name in names))
    return [dict(zip(names, each, strict=True)) for each in widths]


def _node_time(node: TimedNode, table: KernelTable, candidates: Candidates) -> TimeTerm:
    names = node.varying(candidates)
    if len(names) > TABLE_DIMS or (names and node.kernel.groups > 1):
        return TimeTerm(node.name, _terms(node, table, candidates))
    if not names:
        return TimeTerm(node.name, (Term(table.at(*node.lengths({}))),))
    values = {
        tuple(widths.values()): table.at(*node.lengths(widths)) for widths in _combinations(names, candidates)
    }
    return TimeTerm(node.name, table=TimeTable(names, values))


def _terms(node: TimedNode, table: KernelTable, candidates: Candidates) -> Polynomial:
    """The smooth form; a grouped convolution's time goes with its MACs."""
    reads, makes = expand(node.reads, candidates), expand(node.makes, candidates)
    both = multiply([reads, makes])
    if node.kernel.groups > 1:
        ms = table.at(node.kernel.inputs, node.kernel.outputs)
        return times(ms * node.kernel.groups / (node.kernel.inputs * node.kernel.outputs), both)
    form: KernelTime = table.fitted()
    return collect(
        [
            Term(form.constant),
            *times(form.both, both),
            *times(form.inputs, reads),
            *times(form.outputs, makes),
        ]
    )
