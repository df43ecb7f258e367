"""``annotate-width``: what it leaves on the nodes, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.width import Width
from otgraph.data import Data
from otgraph.errors import UsageError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline
from passes.annotate_width import writer_of


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    return capture(net.eval(), (torch.randn(2, 3, 8, 8),))


DATA = Data.from_arrays({"x": np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)})


def run(graph: Graph, text: str = "annotate-width", data: Data | None = DATA) -> Result:
    return PassManager(parse_pipeline(text)).run(graph, Context(data=data, original=graph, seed=4))


def annotations(graph: Graph) -> dict[str, dict[str, Width]]:
    nodes = graph.module.graph.nodes
    return {n.name: n.meta["otgraph"]["width"] for n in nodes if "width" in n.meta.get("otgraph", {})}


def test_the_writer_of_each_dim_carries_its_curve(graph: Graph) -> None:
    found = annotations(run(graph).graph)
    assert list(found) == ["conv2d", "conv2d_1"]
    assert [[w.size for w in widths.values()] for widths in found.values()] == [[8], [6]]
    assert {name for widths in found.values() for name in widths} == {
        d.name for d in analyze(graph).prunable()
    }
    assert not annotations(graph)  # the graph that was given is untouched


def test_criterion_and_batch_are_options(graph: Graph) -> None:
    one = annotations(run(graph, "annotate-width{criterion=magnitude batch=2}").graph)
    two = annotations(run(graph, "annotate-width{criterion=magnitude batch=9}").graph)
    (a,), (b,) = one["conv2d"].values(), two["conv2d"].values()
    assert a.criterion == "magnitude"
    np.testing.assert_allclose(a.readings[0].moment, b.readings[0].moment, rtol=1e-5)
    with pytest.raises(UsageError, match="criterion 'nose'"):
        run(graph, "annotate-width{criterion=nose}")


def test_remarks_have_the_damage_at_the_outputs(graph: Graph) -> None:
    remarks = [r for r in run(graph).remarks if r.kind == "analysis" and "of keeping" in r.message]
    assert [r.metrics["n"] for r in remarks] == [8, 6]
    for remark in remarks:
        assert (
            0
            <= float(remark.metrics["d75"])
            <= float(remark.metrics["d50"])
            <= float(remark.metrics["d25"])
            < 1
        )


def test_without_inputs_it_only_says_so(graph: Graph) -> None:
    result = run(graph, data=None)
    assert not annotations(result.graph)
    assert "nothing is annotated; give --calib" in str(result.remarks[-1])


def test_a_dim_of_no_value_has_no_writer(graph: Graph) -> None:
    with pytest.raises(KeyError, match="ghost"):
        writer_of(graph.module.graph, analyze(graph), "ghost")
