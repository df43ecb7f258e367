"""Which estimator should fit the maps in the place of spans, and what ranks them: errors or prices?

    OMP_NUM_THREADS=1 python tools/bench_depth.py otgraph/sample/digits_resnet20.onnx \\
        --calib otgraph/sample/calibration.npz --data otgraph/sample/test.npz

Every span of the kinds asked for becomes each map that fits it, found by each estimator on --calib; each
collapse is carried out alone. The outputs are held against the original's on --data: KL divergence (of
classifiers) and relative L2, first with nothing else changed, then after the repair that trials use (fitted
on inputs of --calib; of the ridges the best for that collapse). ``error`` is the squared error of the map
over the energy of what it reproduces, ``effect`` the same over the variance of the exit, both on inputs of
--calib that were held out; ``price`` is what the pull-back says of it, read at the outputs on other inputs of
--calib; seconds are the CPU time of the fit.

The second table pairs estimators span by span: geometric means of the damage, its ratio to that of least
squares for the same map of the same span, how often an estimator is the best after the repair (``wins``,
among estimators of one map; ``best of all`` maps of a span). Damage is KL where there is one, else the
squared relative L2. Rows called *plausible* leave out spans that no map replaces within --plausible (relative
L2 after the repair): what is hopeless under every estimator says little. The third table says how well the
layer-wise figures and the price rank the damage (Spearman's rank correlation; 1 = perfectly); the fourth, for
each of them, the damage where it chooses among all maps of each span, and which it chooses where it chooses
among spans too: of --share of all spans the best, each with its best map.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from bench_output import save, show
from depth_figures import PICKED, RANKS, SUMMARY, picked, ranks, summary

import otgraph.api as otg
from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.metric import form_of
from otgraph.calibrate.probing import probing
from otgraph.calibrate.span_fit import SpanFit, fit_collapses
from otgraph.data import Data
from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse, Estimator, MapKind, Span
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.optimize.trial import INPUTS, TRIAL_RIDGES
from otgraph.pricing.prices import edges_of, price
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.trial import TrialRepair
from otgraph.rewrite.collapse import collapse_span
from otgraph.rewrite.rewriter import Rewriter

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
KINDS = ("residual", "plain", "layer", "activation")

COLUMNS = {
    "span": "",
    "kind": "",
    "map": "",
    "estimator": "",
    "error": ".3f",
    "effect": ".3f",
    "price": ".4g",
    "KL": ".4f",
    "L2": ".3f",
    "KL repaired": ".4f",
    "L2 repaired": ".3f",
    "ridge": "g",
    "fit s": ".2f",
}


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    started = time.process_time()
    graph = otg.load(options.model)
    calibration, data = (otg.as_data(text, graph) for text in (options.calib, options.data))
    graph = graph.with_example(next(feeds(graph, calibration, 2), graph.example))
    axes = analyze(graph)
    kinds = spans_of(graph, axes, options.spans)
    spans = spread(list(kinds), options.limit)
    collapses = [c for c in find_collapses(graph, axes, spans, ESTIMATORS) if c.map in options.maps]
    _say(f"fitting {len(collapses)} maps for {len(spans)} spans")
    fits = fit_collapses(graph, calibration, collapses, axes=axes)
    prices = priced(graph, axes, calibration.take(options.samples, options.seed), list(fits.values()))
    judge = Judge(graph, calibration, data.take(options.samples, options.seed), fits, options.ridges)
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {"model": options.model, "rows": rows}
    for number, (name, fit) in enumerate(fits.items(), 1):
        _say(f"{number}/{len(fits)} {name}")
        found = judge(fit)
        if isinstance(found, str):
            _say(f"  {found}")
            continue
        rows.append(described(fit, kinds[fit.collapse.span]) | {"price": prices.get(name)} | found)
        save(options.json, document)  # a stopped run keeps what it has
    document |= {"summary": summary(rows, options.plausible), "ranks": ranks(rows, options.plausible)}
    document["picked"] = picked(rows, options.share)
    document["CPU s"] = time.process_time() - started
    show(options.model, rows, COLUMNS)
    show("by estimator", document["summary"], SUMMARY)
    show("rank correlation with the damage", document["ranks"], RANKS)
    show("maps and spans as each figure chooses them", document["picked"], PICKED)
    print(f"{document['CPU s']:.0f} CPU s")
    save(options.json, document)


def priced(graph: Graph, axes: AxisMap, data: Data, fits: Sequence[SpanFit]) -> dict[str, float]:
    """The price of each collapse that has one, by its name."""
    form = form_of([graph(*next(feeds(graph, data)))], "values")
    found = price(graph, {}, {}, fits, probing(graph, axes, data, form, edges_of({}, fits)))
    return {str(key): found.of(key) for key in found.effects}


def spans_of(graph: Graph, axes: AxisMap, kinds: Sequence[str]) -> dict[Span, str]:
    """The spans of these kinds, in program order: *residual* ones add their entry, *plain* ones hold several
    products, *layer* one; and single activations."""
    products = {view.node.name for view in affine_nodes(graph)}
    found = {span: kind_of(span, products) for span in find_spans(graph, axes)}
    found |= dict.fromkeys(activation_nodes(graph, axes), "activation")
    return {span: kind for span, kind in found.items() if kind in kinds}


def kind_of(span: Span, products: set[str]) -> str:
    """Of a span that multiplies."""
    if span.branch is not None:
        return "residual"
    return "plain" if len(products.intersection(span.nodes)) > 1 else "layer"


def spread(spans: Sequence[Span], limit: int | None) -> list[Span]:
    """At most ``limit`` of them, from all over the network."""
    if limit is None or len(spans) <= limit:
        return list(spans)
    return [spans[round(at * (len(spans) - 1) / max(limit - 1, 1))] for at in range(limit)]


class Judge:
    """Carries out one collapse at a time, and says how far the outputs are from the original's."""

    def __init__(
        self,
        graph: Graph,
        calibration: Data,
        data: Data,
        fits: Mapping[str, SpanFit],
        ridges: Sequence[float],
    ) -> None:
        self._graph = graph
        self._ridges = ridges
        self._inputs = list(feeds(graph, data))
        self._reference = [graph(*feed) for feed in self._inputs]
        replaced = {fit.collapse.span.branch or fit.collapse.span.exit for fit in fits.values()}
        self._repair = TrialRepair(
            graph,
            calibration,
            LeastSquaresOptions.quick(inputs=INPUTS[1]),
            judged=data,
            extra=sorted(replaced),
        )

    def __call__(self, fit: SpanFit) -> dict[str, float | None] | str:
        """The figures without and with repair; or why the span cannot give way."""
        rewriter = Rewriter(self._graph.copy(), "bench")
        done = collapse_span(rewriter, fit.collapse, fit)
        if isinstance(done, str):
            return done
        small = rewriter.finish()
        bare = output_divergence(self._reference, [small(*feed) for feed in self._inputs])
        tried = {ridge: self._repair.damage(small, ridge) for ridge in self._ridges}
        ridge = min(tried, key=lambda r: tried[r].damage)
        return {
            "KL": bare.kl,
            "L2": bare.relative_l2,
            "KL repaired": tried[ridge].kl,
            "L2 repaired": tried[ridge].relative_l2,
            "ridge": ridge,
        }


def described(fit: SpanFit, kind: str) -> dict[str, Any]:
    """What is known of a collapse before it is carried out."""
    collapse = fit.collapse
    return {
        "span": collapse.span.name,
        "kind": kind,
        "map": map_name(collapse),
        "estimator": "-" if collapse.map == "identity" else collapse.estimator,
        "error": fit.error,
        "effect": fit.effect,
        "fit s": fit.seconds,
        "note": fit.note,
    }


def map_name(collapse: Collapse) -> str:
    """The kind of map, with the kernel of a convolution."""
    return " ".join([collapse.map, "x".join(map(str, collapse.kernel))]).strip()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--calib", metavar="DATA", required=True, help="inputs to fit on")
    parser.add_argument("--data", metavar="DATA", required=True, help="other inputs, to judge on")
    parser.add_argument(
        "--spans", nargs="+", choices=KINDS, default=list(KINDS[:3]), help="kinds; all but activations"
    )
    parser.add_argument("--maps", nargs="+", choices=get_args(MapKind), default=list(get_args(MapKind)))
    parser.add_argument("--limit", type=int, metavar="N", help="spans, from all over the network")
    parser.add_argument("--samples", type=int, default=96, metavar="N", help="inputs to judge on, at most")
    parser.add_argument("--ridges", type=float, nargs="+", default=list(TRIAL_RIDGES), help="of the repair")
    parser.add_argument("--plausible", type=float, default=0.5, metavar="L2")
    parser.add_argument("--share", type=float, default=0.25, help="of the spans that are chosen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
