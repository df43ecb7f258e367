"""``inspect --depth``: the spans of a graph with the maps that could replace them, and its activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otgraph.calibrate.activations import ActivationStatistics
from otgraph.calibrate.depth import DEPTH, DepthOptions, SpanDepth, candidates_of
from otgraph.calibrate.feeds import feeds
from otgraph.data_model import ModelData
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.depth import Depth, depth_of
from otgraph.graph.graph import Graph
from otgraph.graph.span import MapKind, Span
from otgraph.graph.spans import activation_nodes
from otgraph.remark import Remark
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.text_table import aligned

KINDS: tuple[MapKind, ...] = ("identity", "affine", "linear", "conv")


@dataclass(frozen=True)
class DepthReport:
    """What ``annotate-depth`` found; without inputs the structure alone.

    ``activations`` are all there are; ``statistics`` those that were observed.
    """

    depth: Depth
    spans: tuple[SpanDepth, ...]
    activations: tuple[Span, ...]
    statistics: tuple[ActivationStatistics, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def text(self) -> str:
        """Two tables: spans and activations."""
        lines = [
            f"depth: {self.depth.nodes} nodes, of which {self.depth.compute} multiply",
            "",
            *aligned(self._span_rows()),
            "error of the map in the span's place, on held-out inputs: 1 = adding nothing where there is a"
            " branch, else a constant; > = at least that, by transport, so not fitted; ? = not fitted;"
            " - = does not fit or saves nothing",
            "",
            *aligned(self._activation_rows()),
        ]
        lines += [str(remark) for remark in self.remarks if remark.kind == "missed"]
        return "\n".join(lines)

    def _span_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("span", "nodes", "branch", *KINDS)]
        for span in self.spans:
            cells = [_cell(span, kind) for kind in KINDS]
            rows.append((span.span.name, str(len(span.span.nodes)), span.span.branch or "", *cells))
        return rows

    def _activation_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("activation", "lost", "off", "curved", "on", "entropy")]
        known = {found.span.name: found for found in self.statistics}
        for span in self.activations:
            if span.name not in known:
                rows.append((span.name, "?", "", "", "", ""))
                continue
            figures = known[span.name].to_json()
            shares = [f"{figures[key]:.1%}" for key in ("cost", "off", "curved", "on")]
            rows.append((span.name, *shares, f"{figures['entropy']:.2f} bit"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        known = {found.span.name: found.to_json() for found in self.statistics}
        return {
            "nodes": self.depth.nodes,
            "compute": self.depth.compute,
            "spans": [span.to_json() for span in self.spans],
            "activations": [known.get(span.name, {"activation": span.name}) for span in self.activations],
            "remarks": [remark.to_json() for remark in self.remarks],
        }


def inspect_depth(graph: Graph, data: ModelData | None = None, *, seed: int = 0) -> DepthReport:
    """The spans and activations of ``graph``, and with calibration inputs what replacing them would lose."""
    if data is None:
        axes = analyze(graph)
        found = candidates_of(graph, axes, DepthOptions())
        spans = tuple(SpanDepth(span, collapses, {}, {}) for span, collapses in found.items())
        return DepthReport(depth_of(graph), spans, activation_nodes(graph, axes))
    graph = graph.with_example(next(feeds(graph, data, 2), graph.example))
    annotate = PassManager(parse_pipeline("annotate-depth"), random_probes=0)
    result = annotate.run(graph, Context(data=data, seed=seed))
    spans, statistics = annotated_depth(result.graph)
    activations = activation_nodes(result.graph, analyze(result.graph))
    remarks = tuple(remark for remark in result.remarks if remark not in graph.remarks)
    return DepthReport(depth_of(graph), spans, activations, statistics, remarks)


def annotated_depth(graph: Graph) -> tuple[tuple[SpanDepth, ...], tuple[ActivationStatistics, ...]]:
    """What nodes of ``graph`` carry, in program order of entries; nothing before ``annotate-depth`` ran."""
    place = {node.name: index for index, node in enumerate(graph.module.graph.nodes)}
    carried = [value for node in graph.module.graph.nodes for value in (DEPTH.of(node) or {}).values()]
    carried.sort(key=lambda value: (place[value.span.entry], place[value.span.exit]))
    spans = tuple(value for value in carried if isinstance(value, SpanDepth))
    return spans, tuple(value for value in carried if isinstance(value, ActivationStatistics))


def _cell(span: SpanDepth, kind: MapKind) -> str:
    candidates = [collapse for collapse in span.collapses if collapse.map == kind]
    if not candidates:
        return "-"
    size = "x".join(map(str, candidates[0].kernel))
    fit = span.best(kind)
    if fit is not None:
        return f"{fit.error:.3f}" + (f" ({size})" if size else "")
    bounds = [span.screened[c.name].bound for c in candidates if c.name in span.screened]
    if bounds:
        return f">{min(bounds):.2f}"
    return f"? ({size})" if size else "?"
