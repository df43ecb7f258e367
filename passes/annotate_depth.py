"""``annotate-depth``: what could take the place of every span, and of every activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

from otgraph.calibrate.activations import ActivationStatistics
from otgraph.calibrate.depth import DEPTH, DepthAnalysis, DepthOptions, SpanDepth, analyze_depth
from otgraph.calibrate.probing import probing
from otgraph.calibrate.span_fit import FitOptions
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.depth import depth_of
from otgraph.pricing.prices import edges_of, price
from otgraph.rewrite.contract import AnalysisPass, Context
from otgraph.rewrite.rewriter import Rewriter

PRICED = 32
"""Inputs that the outputs are looked at on."""


@final
@dataclass(frozen=True)
class AnnotateDepth(AnalysisPass):
    """Attach to every span's exit, and to every activation, what a simpler map in its place would lose.

    What it does
        Finds the spans of the program by its structure (regions with one entry and one exit), and for each
        the maps that fit its ends and multiply less: identity, a factor and a shift per channel, a linear
        map, a convolution. Identities that a lower bound of optimal transport shows to be worse than a
        constant are discarded; the others are fitted in closed form, in one pass over the inputs, and their
        error is taken on held-out inputs. Activations are observed too: their best affine map per
        channel, what it leaves unexplained of what readers make of it, and how often they are off, curved
        and on. The result is the note ``DEPTH`` (``node.meta["otgraph"]["depth"]``): name → ``SpanDepth`` or
        ``ActivationStatistics``.

    When it applies
        To every span and activation that holds channels, when calibration inputs are given.

    Exactness
        An analysis: the program is not changed.

    Before and after
        >>> block = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> graph = capture(block, example(3, 4))
        >>> after = rewrite("annotate-depth", graph, data=inputs(input_1=example(64, 4)))
        >>> from otgraph.calibrate.depth import DEPTH
        >>> nodes = {node.name: node for node in after.module.graph.nodes}
        >>> sorted(DEPTH.of(nodes["linear_1"]))
        ['input_1..linear_1', 'relu..linear_1']

    Remarks
        *analysis* per span: the held-out squared error of each kind of map over the energy of what it
        reproduces (for a residual span the branch's update, else the exit less its mean), by how much the
        map by itself moves the outputs (relative L2, to first order, before any repair), and how many
        candidates were discarded; per activation: the share lost, and how often it is off, curved and on; of
        the whole: depth, candidates, seconds. *missed* where there are no inputs.

    Options
        ``longest``: at most so many minimal spans make one. ``threshold``: discard what is bound to lose more
        than so many times the variance of the exit. ``inputs``: at most so many are used.
    """

    name: ClassVar[str] = "annotate-depth"

    longest: int = 3
    threshold: float = 1.0
    inputs: int = 256

    def run(self, rewriter: Rewriter, context: Context) -> None:
        graph = rewriter.graph
        if context.data is None:
            rewriter.remark("missed", graph.name, "no calibration inputs: nothing is annotated; give --calib")
            return
        options = DepthOptions(
            run=self.longest,
            threshold=self.threshold,
            fit=FitOptions(inputs=self.inputs, seed=context.seed),
        )
        axes = analyze(graph)
        found = analyze_depth(graph, axes, context.data, options)
        damages = _damages(rewriter, axes, context, found)
        for span in found.spans:
            names = [collapse.name for collapse in span.collapses if collapse.name in damages]
            span = replace(span, damages={name: damages[name] for name in names})
            _annotate(rewriter, span.span.exit, span)
            _remark_span(rewriter, span)
        for activation in found.activations:
            _annotate(rewriter, activation.span.exit, activation)
            _remark_activation(rewriter, activation)
        depth = depth_of(graph)
        rewriter.remark(
            "analysis",
            graph.name,
            "spans, candidate maps, and how many of these a lower bound discarded",
            depth=depth.nodes,
            compute_depth=depth.compute,
            spans=len(found.spans),
            candidates=found.candidates,
            discarded=found.discarded,
        )


def _damages(rewriter: Rewriter, axes: AxisMap, context: Context, found: DepthAnalysis) -> dict[str, float]:
    """What each fitted map does to the outputs by itself, to first order (squared relative L2)."""
    fits = [fit for span in found.spans for fit in span.fits.values()]
    if context.data is None or not fits:
        return {}
    graph = rewriter.graph
    inputs = probing(graph, axes, context.data.take(PRICED, context.seed), "values", edges_of({}, fits))
    prices = price(graph, {}, {}, fits, inputs, seed=context.seed)
    for remark in prices.remarks:
        rewriter.remark(remark.kind, remark.where, remark.message, **remark.metrics)
    return {str(key): prices.of(key) for key in prices.effects}


def _annotate(rewriter: Rewriter, name: str, value: SpanDepth | ActivationStatistics) -> None:
    node = next(node for node in rewriter.graph.module.graph.nodes if node.name == name)
    rewriter.annotate(node, DEPTH, {**(DEPTH.of(node) or {}), value.span.name: value})


def _remark_span(rewriter: Rewriter, span: SpanDepth) -> None:
    figures: dict[str, float | int | str] = {
        kind: round(fit.error, 6)
        for kind in ("identity", "affine", "linear", "conv")
        if (fit := span.best(kind)) is not None
    }
    for kind in ("identity", "affine", "linear", "conv"):
        fit = span.best(kind)
        if fit is not None and fit.collapse.name in span.damages:
            figures[f"outputs_{kind}"] = round(span.damages[fit.collapse.name] ** 0.5, 4)
    text = (
        "error of each map in its place (1 = adding nothing)"
        if span.span.branch
        else ("error of each map in its place (1 = a constant)")
    )
    rewriter.remark("analysis", span.span.name, text, **figures, discarded=len(span.discarded))


def _remark_activation(rewriter: Rewriter, found: ActivationStatistics) -> None:
    figures = found.to_json()
    chosen = {key: round(figures[key], 6) for key in ("cost", "off", "curved", "on", "entropy")}
    rewriter.remark(
        "analysis", found.span.name, "the share lost by the best affine map per channel", **chosen
    )
