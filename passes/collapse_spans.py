"""``collapse-spans``: regions of the network give way to one map each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse, Estimator, MapKind, Span
from otgraph.graph.span_site import site_of
from otgraph.graph.spans import find_spans
from otgraph.rewrite.collapsing import is_activation, run_collapses
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.options import suggest
from otgraph.rewrite.planned import refuse_choices
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class CollapseSpans(TransformPass):
    """Replace spans (blocks, runs of layers) by the identity, an affine or linear map, or one convolution.

    What it does
        A span is a region that one value enters and one leaves. Its map is fitted to the original in closed
        form; where the span adds a branch to its entry, to the branch, and the addition stays. The identity
        deletes the span. Where the ends of a span were cut before, the map is restricted to the channels
        that are left.

    When it applies
        To the spans of the plan; without a plan to those that ``spans`` names, ``entry..exit``. A span that
        has lost a node, that something outside reads, or whose ends do not fit the map stays, with the
        reason. It runs before the repairs, which take the new node for the one whose value it stands for.

    Exactness
        Approximate: another function, as near to the original's as the map comes.

    Before and after
        >>> layers = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        >>> graph = capture(nn.Sequential(*layers), example(3, 3))
        >>> print(program_text(rewrite("collapse-spans{spans=[relu..relu_1]}", graph)))
        input input_1
        linear = aten.linear(input_1, 0.weight[4, 3], 0.bias[4])
        relu = aten.relu(linear)
        linear_2 = aten.linear(relu, 4.weight[2, 4], 4.bias[2])
        return linear_2
        >>> short = rewrite("collapse-spans{spans=[relu..relu_1] map=linear fit=false}", graph)
        >>> print(program_text(short))
        input input_1
        linear = aten.linear(input_1, 0.weight[4, 3], 0.bias[4])
        relu = aten.relu(linear)
        relu_1_map = aten.linear(relu, relu_1_map.weight[4, 4], relu_1_map.bias[4])
        linear_2 = aten.linear(relu_1_map, 4.weight[2, 4], 4.bias[2])
        return linear_2

    Remarks
        *applied* per span: what it became, how many nodes it had, and the squared error of the map on
        held-out inputs over the energy of what it reproduces. *missed* per span that stays, with the reason,
        and once where neither a plan nor the options name any.

    Options
        Without a plan: ``spans``, the names of those to collapse; ``map``, what they become; ``kernel``, the
        sizes of a ``conv``, by default the smallest odd ones that skip no input; ``estimator``, how the map
        is found. Always: ``fit``, which when ``false`` gives every map arbitrary numbers, for measuring how
        fast the network would be.
    """

    name: ClassVar[str] = "collapse-spans"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    spans: tuple[str, ...] = ()
    map: MapKind = "identity"
    kernel: tuple[int, ...] = ()
    estimator: Estimator = "least-squares"
    fit: bool = True

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Collapse the spans of the plan, or those that are named."""
        original = context.original or rewriter.graph
        if context.collapses:
            refuse_choices(self, "spans", "map", "kernel", "estimator")
            collapses = [c for c in context.collapses if not is_activation(original, c.span)]
        else:
            collapses = self._named(rewriter, original)
            if not self.spans and not context.couplings:
                rewriter.remark(
                    "missed", rewriter.graph.name, "no plan was given, and no option names a span"
                )
        if collapses:
            run_collapses(rewriter, context, collapses, "fitted" if self.fit else "blank")

    def _named(self, rewriter: Rewriter, original: Graph) -> list[Collapse]:
        if not self.spans:
            return []
        axes = analyze(original)
        known = {span.name: span for span in find_spans(original, axes)}
        for name in self.spans:
            if name not in known:
                rewriter.remark("missed", name, f"no such span; {suggest(name, known)}")
        spans = [known[name] for name in dict.fromkeys(self.spans) if name in known]
        return [Collapse(span, self.map, self._sizes(original, axes, span), self.estimator) for span in spans]

    def _sizes(self, original: Graph, axes: AxisMap, span: Span) -> tuple[int, ...]:
        if self.map != "conv" or self.kernel:
            return self.kernel if self.map == "conv" else ()
        site = site_of(original, axes, span)
        return (site.kernel() if site is not None else None) or ()
