"""Fusions are timed where their geometry changes, as small networks that compute what the real ones do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, Session
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.save import to_onnx_bytes
from otgraph.optimize.fusing import FusionClock, excerpt, fused, judged, with_apart
from otgraph.rewrite.contract import Context
from otgraph.rewrite.linear.fuse import fuse_linear
from otgraph.rewrite.linear.fusion import Fusion
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import relative_error
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import value_infos

NETS: Mapping[str, tuple[nn.Module, tuple[int, ...]]] = {
    "pool": (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1)), (3, 8, 8)),
    "pad": (
        nn.Sequential(nn.ConstantPad2d((1, 2, 0, 1), 0.5), nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 1)),
        (3, 9, 9),
    ),
    "linear": (nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 6)), (5, 8)),
    "length": (nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.Conv1d(4, 3, 2, stride=2)), (4, 12)),
}


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(x) + x


def graph_of(name: str, dialect: str) -> Graph:
    torch.manual_seed(0)
    net, shape = NETS[name] if name in NETS else (Branches(), (4, 7, 7))
    graph = capture(net.eval(), (torch.randn(2, *shape),))
    if dialect == "aten":
        return graph
    return import_model(onnx.load_from_string(to_onnx_bytes(graph))).with_example(graph.example)


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
@pytest.mark.parametrize("name", [*NETS, "branches"])
def test_what_is_timed_computes_what_the_network_computes(name: str, dialect: str) -> None:
    graph = graph_of(name, dialect)
    seen: list[float] = []

    def compare(fusion: Fusion) -> str | None:
        entry = value_infos(rewriter.graph)[fusion.entry]
        before, after = excerpt(rewriter.graph, fusion, entry), fused(rewriter.graph, fusion, entry)
        x = before.example
        seen.append(relative_error(before(*x), after(*x)))
        if name == "pad":  # exporting takes a second or two
            for each in (before, after):
                run = OnnxRuntime().load(to_onnx_bytes(each)).run({"x": x[0].numpy()})["y"]
                np.testing.assert_allclose(run, each(*x)[0].numpy(), rtol=1e-4, atol=1e-5)
        return None

    rewriter = Rewriter(graph.copy(), "test")
    fuse_linear(rewriter, growth=1e9, accept=compare)
    assert seen and max(seen) < 1e-5


class Scripted(Engine):
    """Works as long as it is told to: a model of one node for ``after`` rounds, any other for ``before``."""

    name = "scripted"

    def __init__(self, before: int, after: int) -> None:
        self.times = before, after

    def unavailable(self) -> str | None:
        return None

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}

    def load(self, model: Model, *, threads: int = 1) -> Session:
        assert isinstance(model, bytes)
        nodes = onnx.load_from_string(model).graph.node
        return ScriptedSession(self.times[len(nodes) == 1])


class ScriptedSession(Session):
    inputs = outputs = ()

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = feeds["x"].astype(np.float64)
        for _ in range(self.rounds):
            values = np.sqrt(np.abs(np.sin(values)) + 1)
        return {"y": values}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[Any]:
        return []


def clock(engine: Engine) -> Any:
    return lambda graph: FusionClock(graph, graph.example, engine)


def test_a_fusion_that_is_slower_stays_apart_and_the_pipeline_says_so() -> None:
    graph = graph_of("pool", "aten")
    judge = judged(graph, Context(), "fuse-linear", clock(Scripted(before=1, after=20)))
    names = judge.apart()
    assert len(names) == 2  # all three nodes, and once that is refused the first two
    for remark in judge.verdicts():
        assert remark.kind == "missed" and "no credible gain; the nodes stay apart" in remark.message
        assert float(remark.metrics["old_ms"]) < float(remark.metrics["new_ms"])
    pipeline = with_apart("fold-batch-norm,fuse-linear,cleanup", names)
    assert pipeline == f"fold-batch-norm,fuse-linear{{apart=[{','.join(names)}]}},cleanup"
    kept = PassManager(parse_pipeline(pipeline)).run(graph)
    calls = [node for node in kept.graph.module.graph.nodes if node.op == "call_function"]
    assert len(calls) == 3
    assert any("they are to stay apart" in remark.message for remark in kept.remarks)


def test_a_fusion_that_is_faster_is_made() -> None:
    judge = judged(graph_of("pool", "aten"), Context(), "fuse-linear", clock(Scripted(before=20, after=1)))
    assert judge.apart() == ()
    assert all(remark.kind == "applied" for remark in judge.verdicts())
    assert judge.measured


def test_taking_away_what_surrounds_a_node_needs_no_clock() -> None:
    class Deaf(Scripted):
        def load(self, model: Model, *, threads: int = 1) -> Session:
            raise AssertionError("nothing is to be timed")

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    graph = capture(net, (torch.randn(2, 3, 8, 8),))
    judge = judged(graph, Context(), "fuse-linear", clock(Deaf(1, 1)))
    assert judge.measured == {}


def test_what_cannot_be_timed_stays_as_it_is() -> None:
    class Broken(Scripted):
        def load(self, model: Model, *, threads: int = 1) -> Session:
            raise ModelError("excerpt: the engine cannot load it")

    judge = judged(graph_of("pool", "aten"), Context(), "fuse-linear", clock(Broken(1, 1)))
    assert judge.apart()
    assert all("could not be timed: excerpt" in remark.message for remark in judge.verdicts())
