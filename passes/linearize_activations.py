"""``linearize-activations``: activations give way to their best factor and shift per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, final

from otgraph.calibrate.span_fit import fit_collapses
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyse
from otgraph.graph.graph import Graph, label
from otgraph.graph.span import Collapse, Span
from otgraph.graph.spans import activation_nodes
from otgraph.rewrite.collapsing import is_activation, run_collapses
from otgraph.rewrite.contract import Context, Exactness, Pass
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class LinearizeActivations(Pass):
    """Replace activations by the affine function of each channel that comes nearest on calibration inputs.

    What it does
        For an activation f and a channel of its input z the slope is Cov(f(z), z) / Var(z), the intercept
        E f(z) − slope · E z. What stood around the activation is then affine and can be fused into one layer
        by ``fuse-linear``.

    When it applies
        To the activations of the plan. Without a plan, to those of which the best affine functions leave at
        most ``threshold`` of the variance unexplained, as far as ``include`` names them. Needs calibration
        inputs.

    Exactness
        Approximate: exact where an activation does nothing on the inputs that come.

    Before and after
        >>> layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        >>> graph = capture(nn.Sequential(*layers), example(3, 4))
        >>> print(program_text(rewrite("linearize-activations{fit=false}", graph)))
        input input_1
        linear = aten.linear(input_1, 0.weight[4, 4], 0.bias[4])
        relu_map_scaled = aten.mul(linear, relu_map.weight[4])
        relu_map = aten.add(relu_map_scaled, relu_map.bias[4])
        linear_1 = aten.linear(relu_map, 2.weight[2, 4], 2.bias[2])
        return linear_1

    Remarks
        *applied* per activation with the variance that its affine functions leave unexplained on held-out
        inputs; *missed* with the reason.

    Options
        Without a plan: ``threshold``, the largest share of the variance that may be left unexplained;
        ``include``, patterns (``*`` and ``?``) of the names of activations, all by default. Always: ``fit``,
        which when ``false`` gives every slope an arbitrary value, for measuring how fast the network would
        be.
    """

    name: ClassVar[str] = "linearize-activations"
    kind: ClassVar[Literal["analysis", "transform"]] = "transform"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    threshold: float = 0.05
    include: tuple[str, ...] = ()
    fit: bool = True

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Linearise the activations of the plan, or those that the options choose."""
        original = context.original or rewriter.graph
        planned = [c for c in context.collapses if is_activation(original, c.span)]
        collapses = planned if context.collapses else self._chosen(rewriter, original, context.data)
        if collapses:
            run_collapses(rewriter, context, collapses, "fitted" if self.fit else "blank")

    def _chosen(self, rewriter: Rewriter, original: Graph, data: Data | None) -> Sequence[Collapse]:
        spans = [
            span for span in activation_nodes(original, analyse(original)) if self._named(original, span)
        ]
        collapses = [Collapse(span, "affine") for span in spans]
        if data is None or not self.fit or not collapses:
            return collapses
        fits = fit_collapses(original, data, collapses)
        chosen: list[Collapse] = []
        for collapse in collapses:
            error = fits[collapse.name].error
            if error <= self.threshold:
                chosen.append(collapse)
                continue
            message = f"leaves more than {self.threshold:g} of the variance unexplained"
            rewriter.remark("missed", collapse.span.name, message, held_out_error=round(error, 8))
        return chosen

    def _named(self, original: Graph, span: Span) -> bool:
        if not self.include:
            return True
        last = next(node for node in original.module.graph.nodes if node.name == span.exit)
        names = (last.name, label(last))
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.include)
