"""``linearize-activations``: activations give way to their best factor and shift per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.calibrate.span_fit import fit_collapses
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.name_pattern import matches
from otgraph.graph.graph import Graph, label
from otgraph.graph.span import Collapse, Span
from otgraph.graph.spans import activation_nodes
from otgraph.rewrite.collapsing import is_activation, run_collapses
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.planned import refuse_choices
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class LinearizeActivations(TransformPass):
    """Replace activations by the affine function of each channel that comes nearest on calibration inputs.

    What it does
        For an activation f and a channel of its input z the slope is Cov(f(z), z) / Var(z), the intercept
        E f(z) − slope · E z. What stood around the activation is then affine and can be fused into one layer
        by ``fuse-linear``.

    When it applies
        To the activations of the plan. Without a plan, to those that ``include`` names and of which the best
        affine functions leave at most ``threshold`` of the variance unexplained; to none where neither is
        given. Needs calibration inputs.

    Exactness
        Approximate: exact where an activation does nothing on the inputs that come.

    Before and after
        >>> layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        >>> graph = capture(nn.Sequential(*layers), example(3, 4))
        >>> print(program_text(rewrite("linearize-activations{include=[*] fit=false}", graph)))
        input input_1
        linear = aten.linear(input_1, 0.weight[4, 4], 0.bias[4])
        relu_map_scaled = aten.mul(linear, relu_map.weight[4])
        relu_map = aten.add(relu_map_scaled, relu_map.bias[4])
        linear_1 = aten.linear(relu_map, 2.weight[2, 4], 2.bias[2])
        return linear_1

    Remarks
        *applied* per activation with the variance that its affine functions leave unexplained on held-out
        inputs; *missed* with the reason, and once where neither a plan nor the options choose any.

    Options
        Without a plan: ``threshold``, the largest share of the variance that may be left unexplained, by
        default any; ``include``, patterns (``*`` and ``?``) of the names of activations, by default all where
        a threshold is given. Always: ``fit``,
        which when ``false`` gives every slope an arbitrary value, for measuring how fast the network would
        be.
    """

    name: ClassVar[str] = "linearize-activations"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    threshold: float | None = None
    include: tuple[str, ...] = ()
    fit: bool = True

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Linearize the activations of the plan, or those that the options choose."""
        original = context.original or rewriter.graph
        if context.collapses:
            refuse_choices(self, "threshold", "include")
            collapses = [c for c in context.collapses if is_activation(original, c.span)]
        elif self.include or self.threshold is not None:
            collapses = self._chosen(rewriter, original, context.data)
        else:
            collapses = []
            if not context.couplings:
                rewriter.remark("missed", rewriter.graph.name, "no plan was given, and no option chooses any")
        if collapses:
            run_collapses(rewriter, context, collapses, "fitted" if self.fit else "blank")

    def _chosen(self, rewriter: Rewriter, original: Graph, data: Data | None) -> list[Collapse]:
        spans = [
            span for span in activation_nodes(original, analyze(original)) if self._named(original, span)
        ]
        collapses = [Collapse(span, "affine") for span in spans]
        if data is None or not self.fit or not collapses or self.threshold is None:
            return collapses
        fits = fit_collapses(original, data, collapses)
        chosen: list[Collapse] = []
        for collapse in collapses:
            fit = fits.get(collapse.name)
            if fit is None:
                rewriter.remark("missed", collapse.span.name, "its affine functions cannot be fitted")
            elif fit.error <= self.threshold:
                chosen.append(collapse)
            else:
                message = f"leaves more than {self.threshold:g} of the variance unexplained"
                rewriter.remark("missed", collapse.span.name, message, held_out_error=round(fit.error, 8))
        return chosen

    def _named(self, original: Graph, span: Span) -> bool:
        if not self.include:
            return True
        last = next(node for node in original.module.graph.nodes if node.name == span.exit)
        names = (last.name, label(last))
        return any(matches(name, self.include) for name in names)
