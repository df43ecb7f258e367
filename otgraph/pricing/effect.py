"""What a collapse does to the program: which nodes go, and which come, once everything affine is fused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from otgraph.graph.affine import Affine, affine_nodes, read_affine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.notes import original_name
from otgraph.graph.span import Collapse
from otgraph.graph.span_site import SpanSite, site_of
from otgraph.latency.kernel import Kernel
from otgraph.pricing.timed_node import TimedNode, kernel_of
from otgraph.rewrite.blank_fit import blank_fit
from otgraph.rewrite.catalog import load_pipelines
from otgraph.rewrite.collapse import collapse_span
from otgraph.rewrite.contract import Context
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Effect:
    """``removes``: names of the original's nodes that are gone. ``adds``: the products that take their place,
    over the dims of the original."""

    removes: frozenset[str]
    adds: tuple[TimedNode, ...] = ()


def span_effect(graph: Graph, axes: AxisMap, collapse: Collapse) -> Effect | None:
    """The effect of a map in the place of a span that multiplies: all of the span goes, and one product
    comes, into which an addition of the entry is fused. None where the ends of the span cannot be related."""
    span = collapse.span
    removes = frozenset(span.nodes)
    if collapse.map == "identity":
        return Effect(removes)
    site = site_of(graph, axes, span)
    if site is None:
        return None
    reads, makes = (axes.values[name][0][site.axis] for name in (span.entry, span.exit))
    return Effect(removes, (TimedNode(collapse.name, _kernel(site, collapse), reads, makes),))


def _kernel(site: SpanSite, collapse: Collapse) -> Kernel:
    if site.axis == -1:
        return Kernel.of(site.window_of(), (max(math.prod(site.space), 1),))
    kernel = collapse.kernel if collapse.map == "conv" else ()
    return Kernel.of(site.window_of(kernel, site.exit if collapse.map == "affine" else 1), site.source)


class ActivationEffects:
    """The effects of linearizing activations of ``graph``, each tried on a copy: what is saved is what can be
    fused once there is nothing between two products."""

    def __init__(self, graph: Graph, axes: AxisMap) -> None:
        self.graph = graph
        self.axes = axes
        self._names = _calls(graph)
        self._whole: set[str] | None = None

    def of(self, collapse: Collapse) -> Effect | None:
        """The effect of ``collapse``; None where the two products could not be fused for less."""
        if not _may_fuse(self.graph, collapse):
            return None
        if self._whole is None:
            self._whole = _calls(_simplified(self.graph.copy()))
        rewriter = Rewriter(self.graph.copy(), "effect")
        done = collapse_span(rewriter, collapse, blank_fit(self.graph, self.axes, collapse))
        if isinstance(done, str):
            return None
        after = _simplified(rewriter.finish())
        added = [view for view in affine_nodes(after) if view.node.name not in self._names]
        adds = [_timed(f"{collapse.name}/{v.node.name}", self.axes, after, v) for v in added]
        if None in adds:
            return None
        return Effect(
            frozenset(self._whole - _calls(after)), tuple(node for node in adds if node is not None)
        )


def _may_fuse(graph: Graph, collapse: Collapse) -> bool:
    """Whether the products before and after would cost less as one: a cheap look before a trial."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    before, after = _product(graph, nodes[collapse.span.entry], up=True), None
    users = list(nodes[collapse.span.exit].users)
    if len(users) == 1:
        after = _product(graph, users[0], up=False)
    if before is None or after is None:
        return False
    first, second = before.window, after.window
    kernels = zip(first.kernel, second.kernel, strict=False)
    merged = second.outputs * first.inputs * math.prod(a + b - 1 for a, b in kernels)
    return merged <= first.weights + second.weights


def _product(graph: Graph, node: fx.Node, *, up: bool) -> Affine | None:
    """The product at ``node`` or next to it, over nodes with one reader."""
    for _ in range(3):
        view = read_affine(graph, node) if node.op == "call_function" else None
        if view is not None:
            return view
        nearest: Sequence[fx.Node] = [
            n for n in (node.all_input_nodes if up else node.users) if n.op == "call_function"
        ]
        if len(nearest) != 1:
            return None
        node = nearest[0]
    return None


def _timed(name: str, axes: AxisMap, after: Graph, view: Affine) -> TimedNode | None:
    """``view``, a node of ``after`` that the original does not have, as something to time over the dims of
    the original; None where it cannot be said which of them it reads and makes."""
    ends = [axes.values.get(original_name(node), ()) for node in (view.data, view.output)]
    if any(len(end) != 1 for end in ends):
        return None
    read, made = ends[0][0], ends[1][0]
    window, reads, makes = view.window, read[view.axis], made[view.axis]
    if (reads.size, makes.size) != (window.inputs, window.outputs):
        return None
    kernel = kernel_of(after, window, [axis.size for axis in read])
    return TimedNode(name, kernel, makes if kernel.kind == "depthwise" else reads, makes)


def _simplified(graph: Graph) -> Graph:
    """Folded and fused; no claim is checked, nothing of this is kept."""
    for step in parse_pipeline(load_pipelines()["simplify"]):
        rewriter = Rewriter(graph, step.name)
        step.run(rewriter, Context())
        graph = rewriter.finish()
    return graph


def _calls(graph: Graph) -> set[str]:
    return {node.name for node in graph.module.graph.nodes if node.op == "call_function"}
