"""What the nodes of a graph cost in time, as polynomials in the widths of its dims.

Convolutions and products are timed one by one on the engine at a few widths (``latency.kernels``). What is
left of the measured whole goes, a fixed overhead aside, to the other nodes in proportion to the elements they
make: an element-wise node costs memory traffic. The sum ranks choices; the closed loop scales it to the
clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from otgraph.engines.engine import Engine
from otgraph.graph.affine import Affine, affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.expression import Expression
from otgraph.graph.graph import Graph
from otgraph.latency.kernels import Kernel, KernelTime, time_kernels
from otgraph.latency.model import OVERHEAD
from otgraph.latency.table import LatencyTable
from otgraph.optimize.settings import Settings
from otgraph.plan.terms import Polynomial, Term, collect, evaluate, expand, multiply


def time_terms(
    graph: Graph, axes: AxisMap, engine: Engine, whole_ms: float, settings: Settings
) -> Polynomial:
    """Milliseconds of one inference (batch 1) as a polynomial in the widths of the prunable dims."""
    views = {view.node.name: view for view in affine_nodes(graph)}
    kernels = {name: kernel_of(graph, axes, view) for name, view in views.items()}
    known = [kernel for kernel in kernels.values() if kernel is not None]
    table = None
    if settings.cache is not None:
        device = {**engine.describe(), "threads": settings.threads, "multiple": settings.multiple}
        table = LatencyTable(settings.cache / "latency.sqlite", device)
    times = time_kernels(
        engine,
        known,
        threads=settings.threads,
        multiple=settings.multiple,
        table=table,
        progress=settings.progress,
    )
    dims = frozenset(dim.name for dim in axes.prunable())
    terms: list[Term] = []
    for name, view in views.items():
        kernel = kernels[name]
        if kernel is not None and kernel in times:
            terms += _affine_terms(axes, view, kernel, times[kernel], dims)
    full = {dim.name: dim.size for dim in axes.prunable()}
    rest = max(whole_ms * (1 - OVERHEAD) - evaluate(terms, full), 0.0)
    return collect([*terms, Term(whole_ms * OVERHEAD), *_other_terms(graph, axes, views, rest, dims, full)])


def kernel_of(graph: Graph, axes: AxisMap, view: Affine) -> Kernel | None:
    """The node as something that can be timed alone; None for groupings other than depthwise."""
    sizes = [axis.size for axis in axes.values[view.data.name][0]]
    weight = [axis.size for axis in axes.tensors[view.weight]]
    if view.kind == "linear":
        inputs, outputs = (weight[1], weight[0]) if view.layout == "oi" else (weight[0], weight[1])
        return Kernel("linear", inputs, outputs, (_rows(graph, sizes),))
    depthwise = view.groups > 1 and weight[1] == 1 and weight[0] == view.groups
    if view.groups > 1 and not depthwise:
        return None
    pads = tuple(p[0] for p in view.padding) + tuple(p[1] for p in view.padding)
    return Kernel(
        "depthwise" if depthwise else "conv",
        sizes[1],
        weight[0],
        tuple(sizes[2:]),
        tuple(weight[2:]),
        view.stride,
        pads,
        view.dilation,
    )


def _rows(graph: Graph, sizes: Sequence[int]) -> int:
    batch = int(graph.example[0].shape[0]) if graph.example and graph.example[0].dim() else 1
    rows = 1
    for size in sizes[:-1]:
        rows *= size
    return max(rows // max(batch, 1), 1)


def _affine_terms(
    axes: AxisMap, view: Affine, kernel: Kernel, time: KernelTime, dims: frozenset[str]
) -> Polynomial:
    weight = axes.tensors[view.weight]
    outer, inner = (0, 1) if view.layout == "oi" else (1, 0)
    made = expand(weight[outer], dims)
    read = made if kernel.kind == "depthwise" else expand(weight[inner], dims)
    return collect(
        [
            Term(time.constant),
            *_times(time.both, multiply([read, made])),
            *_times(time.inputs, read),
            *_times(time.outputs, made),
        ]
    )


def _other_terms(
    graph: Graph,
    axes: AxisMap,
    views: Mapping[str, Any],
    rest: float,
    dims: frozenset[str],
    full: Mapping[str, int],
) -> Polynomial:
    elements: list[Term] = []
    for node in graph.module.graph.nodes:
        if node.op == "call_function" and node.name not in views and _makes_values(node, axes):
            elements += multiply([_length(axis, dims) for axis in axes.values[node.name][0]])
    total = evaluate(elements, full)
    return _times(rest / total, elements) if total > 0 else (Term(rest),)


def _makes_values(node: fx.Node, axes: AxisMap) -> bool:
    return len(axes.values.get(node.name, ())) == 1 and bool(axes.values[node.name][0])


def _length(axis: Expression, dims: frozenset[str]) -> Polynomial:
    return expand(axis, dims)


def _times(factor: float, terms: Sequence[Term]) -> Polynomial:
    return tuple(Term(factor * term.coefficient, term.dims) for term in terms) if factor > 0 else ()
