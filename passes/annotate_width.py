"""``annotate-width``: what removing channels of each dim costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import fx

from otgraph.calibrate.width import DEFAULT_CRITERION, WIDTH, analyze_width
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.rewrite.contract import AnalysisPass, Context
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class AnnotateWidth(AnalysisPass):
    """Attach to the writer of every prunable dim the curve of what keeping k of its channels costs.

    What it does
        Streams first and second moments of what reads each dim over the calibration inputs, and computes
        nested channel sets for every k with their cost, by semi-relaxed optimal transport under the
        re-routing cost (or by another criterion). The ground metric is pulled back from the outputs by a few
        backward passes, so costs are damages there. The result is the note ``WIDTH``
        (``node.meta["otgraph"]["width"]``): dim name → ``Width``.

    When it applies
        To every dim that the axis analysis finds prunable, when calibration inputs are given.

    Exactness
        An analysis: the program is not changed.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), example(3, 4))
        >>> after = rewrite("annotate-width{criterion=energy}", graph, data=inputs(input_1=example(16, 4)))
        >>> from otgraph.calibrate.width import WIDTH
        >>> [node.name for node in after.module.graph.nodes if WIDTH.of(node)]
        ['linear']

    Remarks
        *analysis* per dim: its size, and what keeping three quarters, half and a quarter of it does to the
        outputs, to first order (squared relative L2; where no gradient arrives, squared outputs of what
        reads the dim). *missed* where there are no inputs, or where a dim could not be observed.

    Options
        ``criterion``: rerouting, cholesky, energy, magnitude, wasserstein, barycenter or
        random. ``batch``: inputs per call of the network.
    """

    name: ClassVar[str] = "annotate-width"

    criterion: str = DEFAULT_CRITERION
    batch: int = 32

    def run(self, rewriter: Rewriter, context: Context) -> None:
        graph = rewriter.graph
        if context.data is None:
            rewriter.remark("missed", graph.name, "no calibration inputs: nothing is annotated; give --calib")
            return
        axes = analyze(graph)
        found = analyze_width(graph, axes, context.data, self.criterion, context.seed, self.batch)
        for remark in (*axes.remarks, *found.remarks):
            rewriter.remark(remark.kind, remark.where, remark.message, **remark.metrics)
        for name, width in found.widths.items():
            node = writer_of(graph.module.graph, axes, name)
            rewriter.annotate(node, WIDTH, {**(WIDTH.of(node) or {}), name: width})
            shares = {
                f"d{q}": float(f"{float(width.curve.distortion[width.size * q // 100]):.4g}")
                for q in (75, 50, 25)
            }
            rewriter.remark(
                "analysis", name, "damage at the outputs of keeping 75, 50, 25 %", n=width.size, **shares
            )


def writer_of(program: fx.Graph, axes: AxisMap, dim: str) -> fx.Node:
    """The first computed value that holds ``dim``."""
    for node in program.nodes:
        results = axes.values.get(node.name, ())
        if node.op not in ("get_attr", "placeholder") and any(dim in a.dims() for r in results for a in r):
            return node
    raise KeyError(dim)
