"""Attention and MLP halves, blocks and runs of blocks of a transformer give way to linear maps or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import fx, nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.span_fit import SpanFit, fit_collapses
from otgraph.data import Chunk, Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.span import Collapse, Span
from otgraph.graph.spans import find_spans
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        split = self.qkv(self.first(x)).reshape(n, t, 3, self.heads, c // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, c))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Linear(6, 8), nn.Sequential(*(Block(8, 2) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.patch(x))).mean(1))


@pytest.fixture(scope="module", params=["aten", "onnx"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    torch.manual_seed(0)
    found = capture(Transformer().eval(), torch.randn(2, 5, 6))
    if request.param == "aten":
        return found
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    found.save(path)
    return import_model(onnx.load(path))


def data(graph: Graph, n: int = 96) -> Data:
    x = torch.randn(n, 5, 6, generator=torch.Generator().manual_seed(1))
    return Data((Chunk({graph.signature.inputs[0].name: x.numpy()}),))


def run(pipeline: str, graph: Graph, **context: Any) -> Result:
    return PassManager(parse_pipeline(pipeline)).run(graph, Context(**context))


class Overridden(fx.Interpreter):
    """The original with the value of one node computed by a map of another's: collapsing, by hand."""

    def __init__(self, graph: Graph, span: Span, fit: SpanFit | None) -> None:
        super().__init__(graph.module, garbage_collect_values=False)
        self.span, self.fit = span, fit

    def run_node(self, n: fx.Node) -> Any:
        if n.name != self.span.exit:
            return super().run_node(n)
        entry = next(value for node, value in self.env.items() if node.name == self.span.entry)
        if self.fit is None:
            return entry
        assert self.fit.weight is not None and self.fit.bias is not None
        mapped = entry @ self.fit.weight.T + self.fit.bias
        return mapped + (entry if self.span.branch is not None else 0)


def halves(graph: Graph) -> list[Span]:
    """Attention, MLP, attention, …"""
    return [span for span in find_spans(graph, analyze(graph)) if span.branch is not None]


def stretch(graph: Graph, first: Span, last: Span) -> Span:
    """The run of blocks from one half to another."""
    ends = (first.entry, last.exit)
    return next(span for span in find_spans(graph, analyze(graph)) if (span.entry, span.exit) == ends)


@pytest.mark.parametrize("which", ["attention", "mlp", "block", "two blocks"])
@pytest.mark.parametrize("kind", ["identity", "linear"])
def test_what_is_left_is_the_original_with_that_value_replaced(
    graph: Graph, which: str, kind: Any, tmp_path: Path
) -> None:
    parts = halves(graph)
    assert len(parts) == 6
    span = {
        "attention": lambda: parts[2],
        "mlp": lambda: parts[3],
        "block": lambda: stretch(graph, parts[2], parts[3]),
        "two blocks": lambda: stretch(graph, parts[2], parts[4]),
    }[which]()
    collapse = Collapse(span, kind)
    feed = data(graph)
    fit = fit_collapses(graph, feed, [collapse])[collapse.name] if kind == "linear" else None
    result = run("collapse-spans", graph, data=feed, collapses=(collapse,))
    assert [r.where for r in result.remarks if r.kind == "applied"] == [span.name]
    x = torch.randn(7, 5, 6)
    with torch.no_grad():
        expected = Overridden(graph, span, fit).run(x)[0]
    torch.testing.assert_close(result.graph(x)[0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, graph(x)[0], atol=1e-3)
    left = {node.name for node in result.graph.module.graph.nodes}
    assert not left & (set(span.nodes) - {span.exit})
    if graph.dialect == "onnx":
        result.graph.save(tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_repair_mends_what_the_replaced_blocks_have_broken(graph: Graph) -> None:
    parts = halves(graph)
    collapses = (Collapse(parts[1], "identity"), Collapse(stretch(graph, parts[2], parts[3]), "linear"))
    feed = data(graph, 192)
    plain = run("collapse-spans", graph, data=feed, collapses=collapses)
    repaired = run("collapse-spans,repair-least-squares,cleanup", graph, data=feed, collapses=collapses)
    stand_in = f"{collapses[1].span.exit}_map"
    assert any("collapse-spans" in str(r) and r.kind == "applied" for r in repaired.remarks)
    refitted = {
        r.where for r in repaired.remarks if r.source == "repair-least-squares" and r.kind == "applied"
    }
    assert any(stand_in in where for where in refitted), refitted
    x = torch.randn(64, 5, 6)
    damage = [output_divergence([graph(x)], [r.graph(x)]).relative_l2 for r in (plain, repaired)]
    assert damage[1] < 0.7 * damage[0]
