"""``annotate-depth``: what it leaves on the nodes, what it says, and what ``inspect`` shows of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import otgraph.api as otg
from otgraph.audit.report import plain
from otgraph.calibrate.activations import ActivationStatistics
from otgraph.calibrate.depth import SpanDepth
from otgraph.data import Data
from otgraph.errors import DataError
from otgraph.graph.graph import Graph
from otgraph.inspection.depth_report import DepthReport, annotated_depth, inspect_depth
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 2)
        self.a, self.b = nn.Conv2d(6, 12, 3, padding=1), nn.Conv2d(12, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return otg.capture(Net().eval(), (torch.randn(2, 3, 8, 8),))


DATA = Data.from_arrays({"x": np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)})


def run(graph: Graph, text: str = "annotate-depth", data: Data | None = DATA) -> Result:
    return PassManager(parse_pipeline(text)).run(graph, Context(data=data, original=graph, seed=4))


@pytest.fixture(scope="module")
def result(graph: Graph) -> Result:
    return run(graph)


def test_exits_and_activations_carry_what_was_found(graph: Graph, result: Result) -> None:
    carried = {
        node.name: node.meta["otgraph"]["depth"]
        for node in result.graph.module.graph.nodes
        if "depth" in node.meta.get("otgraph", {})
    }
    assert all(value.span.exit == name for name, values in carried.items() for value in values.values())
    kinds = {type(value) for values in carried.values() for value in values.values()}
    assert kinds == {SpanDepth, ActivationStatistics}
    spans, activations = annotated_depth(result.graph)
    assert [found.span.exit for found in activations] == ["relu", "relu_1", "relu_2"]
    (block,) = (span for span in spans if span.span.branch is not None)
    assert block.span.entry == "relu" and {c.map for c in block.collapses} >= {"identity", "conv"}
    assert annotated_depth(graph) == ((), ())  # the graph that was given is untouched


def test_remarks_hold_the_figures(result: Result) -> None:
    remarks = {remark.where: remark for remark in result.remarks}
    spans, activations = annotated_depth(result.graph)
    (block,) = (span for span in spans if span.span.branch is not None)
    said = remarks[block.span.name]
    assert said.message == "error of each map in its place (1 = adding nothing)"
    conv = block.best("conv")
    assert conv is not None and said.metrics["conv"] == round(conv.error, 6)
    assert remarks[activations[0].span.name].metrics["cost"] == round(activations[0].cost, 6)
    whole = remarks[result.graph.name].metrics
    assert whole["compute_depth"] == 4 and whole["spans"] == len(spans)


def test_longest_and_threshold_are_options(graph: Graph) -> None:
    short, _ = annotated_depth(run(graph, "annotate-depth{longest=1}").graph)
    whole, _ = annotated_depth(run(graph, "annotate-depth{threshold=0.0001 inputs=12}").graph)
    assert 0 < len(short) < len(whole)
    identities = [span for span in whole if any(c.map == "identity" for c in span.collapses)]
    assert identities and all(span.best("identity") is None for span in identities)


def test_without_inputs_it_says_so(graph: Graph) -> None:
    (remark,) = run(graph, data=None).remarks
    assert remark.message == "no calibration inputs: nothing is annotated; give --calib"


@pytest.fixture(scope="module")
def report(graph: Graph) -> DepthReport:
    return otg.inspect_depth(graph, DATA)


def test_the_tables_show_errors_and_shares(report: DepthReport) -> None:
    lines = report.text.splitlines()
    assert lines[0].startswith("depth: ") and "of which 4 multiply" in lines[0]
    (block,) = (span for span in report.spans if span.span.branch is not None)
    row = next(line for line in lines if line.startswith(block.span.name + " "))
    conv = block.best("conv")
    assert conv is not None and f"{conv.error:.3f} (3x3)" in row and block.span.branch in row.split()
    assert any(f"{report.statistics[0].cost:.1%}" in line for line in lines)


def test_the_document_is_json(report: DepthReport, graph: Graph) -> None:
    document = json.loads(json.dumps(plain(report.to_json())))
    assert len(document["spans"]) == len(report.spans) and document["compute"] == 4
    assert {"off", "curved", "on", "entropy", "cost"} <= document["activations"][0].keys()
    bare = otg.inspect_depth(graph).to_json()
    assert [s["span"] for s in bare["spans"]] == [s["span"] for s in document["spans"]]
    assert all(m["error"] is None for s in bare["spans"] for m in s["maps"])


def test_without_inputs_the_structure_is_shown(graph: Graph) -> None:
    text = inspect_depth(graph).text
    assert "? (3x3)" in text and "conv2d..relu" in text


def test_inputs_that_do_not_fit_are_refused(graph: Graph) -> None:
    with pytest.raises(DataError, match="x"):
        otg.inspect_depth(graph, Data.from_arrays({"x": np.zeros((4, 5, 8, 8), np.float32)}))
