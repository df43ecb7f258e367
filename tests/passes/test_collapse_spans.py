"""Collapses through the pass manager and through plans: fitted, restricted, repaired, applied again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.data import Chunk, Data
from otgraph.errors import PipelineError, PlanError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.span import Collapse, MapKind, Span
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.program_text import program_text
from otgraph.transport.coupling import Coupling

PIPELINE = (
    "reroute-channels,prune-channels,collapse-spans,linearize-activations,repair-least-squares,"
    "repair-moments{inputs=64},fold-batch-norm,cleanup"
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))


class Net(nn.Module):
    """Two residual blocks, a strided convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), Block(6), Block(6)
        self.down, self.head = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.down(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """The same network in both dialects."""
    torch.manual_seed(0)
    aten = capture(Net().eval(), torch.randn(2, 2, 8, 8))
    return {"aten": aten, "onnx": through_onnx(aten, tmp_path_factory.mktemp("model"))}


def through_onnx(graph: Graph, folder: Path) -> Graph:
    graph.save(folder / "net.onnx")
    return import_model(onnx.load(folder / "net.onnx"))


def inputs(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def data(graph: Graph, n: int = 48) -> Data:
    return Data((Chunk({graph.signature.inputs[0].name: inputs(n).numpy()}),))


def blocks(graph: Graph) -> list[Span]:
    """The spans of the two residual blocks, without the activation at the end."""
    return [span for span in find_spans(graph, analyze(graph)) if span.branch is not None]


def run(pipeline: str, graph: Graph, **context: Any) -> Result:
    return PassManager(parse_pipeline(pipeline)).run(graph, Context(**context))


def said(result: Result, kind: str) -> list[str]:
    return [str(r) for r in result.remarks if r.kind == kind]


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
def test_a_span_that_is_what_its_map_is_loses_nothing(dialect: str, tmp_path: Path) -> None:
    """An activation that never bends makes what is around it one linear map."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh())
    net[2].bias.data += 30  # type: ignore[operator]
    graph = capture(net.eval(), torch.randn(2, 3))
    if dialect == "onnx":
        graph = through_onnx(graph, tmp_path)
    names = [s.name for s in find_spans(graph, analyze(graph))]
    linear = next(s for s in find_spans(graph, analyze(graph)) if len(s.nodes) in (3, 5) and "anh" in s.entry)
    x = torch.randn(64, 3)
    feed = Data((Chunk({graph.signature.inputs[0].name: x.numpy()}),))
    result = run(f"collapse-spans{{spans=[{linear.name}] map=linear}}", graph, data=feed)
    assert said(result, "applied"), (names, said(result, "missed"))
    fresh = torch.randn(9, 3)
    found = output_divergence([graph(fresh)], [result.graph(fresh)])
    assert found.relative_l2 < 1e-3
    deleted = run(f"collapse-spans{{spans=[{linear.name}] map=linear fit=false}}", graph, data=feed)
    assert output_divergence([graph(fresh)], [deleted.graph(fresh)]).relative_l2 > 0.1


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
@pytest.mark.parametrize("kind", ["identity", "affine", "linear", "conv"])
def test_arbitrary_numbers_make_the_same_program_as_fitted_ones(
    dialect: str, kind: MapKind, graphs: dict[str, Graph]
) -> None:
    graph = graphs[dialect]
    name = blocks(graph)[0].name
    fitted = run(f"collapse-spans{{spans=[{name}] map={kind}}}", graph, data=data(graph))
    blank = run(f"collapse-spans{{spans=[{name}] map={kind} fit=false}}", graph)
    again = run(f"collapse-spans{{spans=[{name}] map={kind} fit=false}}", graph)
    assert program_text(fitted.graph) == program_text(blank.graph) != program_text(graph)
    x = inputs(4)
    assert torch.equal(blank.graph(x)[0], again.graph(x)[0])
    assert torch.equal(blank.graph(x)[0], fitted.graph(x)[0]) == (kind == "identity")
    assert len(said(fitted, "applied")) == 1
    assert ("held_out_error=" in said(fitted, "applied")[0]) == (kind != "identity")


def test_fitted_maps_come_nearer_than_none(graphs: dict[str, Graph]) -> None:
    graph = graphs["aten"]
    name = blocks(graph)[0].name
    x = inputs(40, seed=5)
    found = {
        kind: output_divergence(
            [graph(x)],
            [run(f"collapse-spans{{spans=[{name}] map={kind}}}", graph, data=data(graph, 128)).graph(x)],
        ).relative_l2
        for kind in ("identity", "linear", "conv")
    }
    assert found["conv"] < found["linear"] < found["identity"]


def test_without_inputs_only_what_needs_no_fit_is_done(graphs: dict[str, Graph]) -> None:
    graph = graphs["aten"]
    first, second = blocks(graph)
    collapses = (Collapse(first, "identity"), Collapse(second, "conv", (3, 3)))
    result = run("collapse-spans", graph, collapses=collapses)
    assert said(result, "applied") == [f"applied: collapse-spans: {first.name}: deleted nodes=6"]
    assert said(result, "missed") == [
        f"missed: collapse-spans: {second.name}: its map has to be fitted: calibration data was not given"
    ]
    names = {node.name for node in result.graph.module.graph.nodes}
    assert set(second.nodes) <= names and not set(first.nodes) & names


def test_names_that_are_no_spans_and_passes_that_nobody_asked(graphs: dict[str, Graph]) -> None:
    graph = graphs["aten"]
    name = blocks(graph)[0].name
    result = run(f"collapse-spans{{spans=[{name}x]}}", graph)
    assert said(result, "missed") == [
        f"missed: collapse-spans: {name}x: no such span; did you mean '{name}'?"
    ]
    for step in ("collapse-spans", "linearize-activations"):
        silent = run(step, graph, data=data(graph))
        assert program_text(silent.graph) == program_text(graph)
        assert "no plan was given, and no option" in said(silent, "missed")[0]
    with pytest.raises(
        PipelineError, match="option 'map' is one of identity, affine, linear, conv, not melt"
    ):
        parse_pipeline("collapse-spans{map=melt}")


def test_each_pass_takes_its_part_of_the_plan(graphs: dict[str, Graph]) -> None:
    graph = graphs["aten"]
    activation = activation_nodes(graph, analyze(graph))[-1]
    collapses = (Collapse(blocks(graph)[0], "identity"), Collapse(activation, "affine"))
    spans = run("collapse-spans", graph, collapses=collapses, data=data(graph))
    assert len(said(spans, "applied")) == 1 and blocks(graph)[0].name in said(spans, "applied")[0]
    lines = run("linearize-activations", graph, collapses=collapses, data=data(graph))
    assert len(said(lines, "applied")) == 1 and activation.name in said(lines, "applied")[0]
    cut = run("prune-channels", graph, collapses=collapses)
    assert not any("no plan was given" in text for text in said(cut, "missed"))
    both = run("collapse-spans,linearize-activations", graph, collapses=collapses, data=data(graph))
    assert len(said(both, "applied")) == 2


def test_an_activation_whose_input_was_deleted_reads_what_is_there_now(graphs: dict[str, Graph]) -> None:
    graph = graphs["aten"]
    block = blocks(graph)[0]
    activation = next(s for s in activation_nodes(graph, analyze(graph)) if s.entry == block.exit)
    collapses = (Collapse(block, "identity"), Collapse(activation, "affine"))
    result = run("collapse-spans,linearize-activations", graph, collapses=collapses, data=data(graph))
    assert len(said(result, "applied")) == 2, said(result, "missed")
    stand_in = next(n for n in result.graph.module.graph.nodes if n.name == f"{activation.exit}_map")
    assert stand_in.args[0].name == block.entry


def test_linearizing_by_threshold(graphs: dict[str, Graph]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].bias.data += 30  # type: ignore[operator]
    net[2].bias.data = -net[2].weight.data @ net[0].bias.data  # type: ignore[operator]
    graph = capture(net.eval(), torch.randn(2, 3))
    x = torch.randn(64, 3)
    feed = Data((Chunk({"input_1": x.numpy()}),))
    result = run("linearize-activations{threshold=0.001}", graph, data=feed)
    assert [text.split(": ")[2] for text in said(result, "applied")] == ["linear..relu"]
    assert (
        "linear_1..relu_1: leaves more than 0.001 of the variance unexplained held_out_error="
        in (said(result, "missed")[0])
    )
    fresh = torch.randn(9, 3)
    torch.testing.assert_close(result.graph(fresh)[0], graph(fresh)[0], rtol=1e-4, atol=1e-4)
    named = run("linearize-activations{include=[relu_?]}", graph, data=feed)
    assert [text.split(": ")[2] for text in said(named, "applied")] == ["linear_1..relu_1"]


def half(graph: Graph, dim: str) -> Coupling:
    size = analyze(graph).dims[dim].size
    kept = np.arange(size // 2)
    target = np.concatenate([kept, np.full(size - len(kept), -1)])
    return Coupling(kept, target)


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
def test_width_and_depth_together_and_the_repair_helps(dialect: str, graphs: dict[str, Graph]) -> None:
    """The stream and a layer inside a block that vanishes are cut first; then one block goes, the other
    becomes a convolution."""
    graph = graphs[dialect]
    first, second = blocks(graph)
    collapses = (Collapse(first, "identity"), Collapse(second, "conv", (3, 3)))
    couplings = {dim: half(graph, dim) for dim in ("stem", "first.a")}
    assert couplings.keys() <= analyze(graph).dims.keys()
    context = {"collapses": collapses, "couplings": couplings, "data": data(graph, 128)}
    plain = run("prune-channels,collapse-spans", graph, **context)
    repaired = run(PIPELINE, graph, **context)
    assert len([t for t in said(repaired, "applied") if "collapse-spans" in t]) == 2
    x = inputs(64, seed=9)
    damage = [output_divergence([graph(x)], [r.graph(x)]).relative_l2 for r in (plain, repaired)]
    assert damage[1] < 0.7 * damage[0]
    weight = f"{second.branch}_map.weight"
    assert repaired.graph.tensor(weight).shape == (3, 3, 3, 3)
    assert not torch.equal(plain.graph.tensor(weight), repaired.graph.tensor(weight))


def plan_for(graph: Graph, feed: Data) -> Plan:
    first, second = blocks(graph)
    activation = activation_nodes(graph, analyze(graph))[-1]
    return Plan(
        model=graph.name,
        fingerprint=fingerprint_graph(graph),
        budget=Budget("ratio", 0.6),
        pipeline=PIPELINE,
        dims=(DimDecision.of("stem", half(graph, "stem")),),
        depth=(
            DepthAction(Collapse(first, "identity"), 0.01, 0.4, 0.0),
            DepthAction(Collapse(second, "conv", (3, 3), "moments"), 0.02, 0.4, 0.2),
            DepthAction(Collapse(activation, "affine"), 0.001),
        ),
        calibration=CalibrationReference.of(feed),
    )


@pytest.mark.slow
def test_a_plan_with_depth_is_applied_again_byte_for_byte(graphs: dict[str, Graph], tmp_path: Path) -> None:
    graph = graphs["onnx"]
    feed = data(graph, 96)
    plan = plan_for(graph, feed)
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    for number, each in enumerate((plan, again)):
        result = each.apply_with_records(graph, feed)
        assert not any(r.source == "plan" for r in result.remarks), said(result, "missed")
        result.graph.save(tmp_path / f"{number}.onnx")
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    other = graph.copy()
    other.tensor("head.weight").data[0, 0] += 1
    with pytest.raises(PlanError, match=r"made for another model: head.weight holds other values"):
        again.apply(other, feed)


def test_a_plan_without_its_inputs_says_what_it_left_out(graphs: dict[str, Graph]) -> None:
    both = "collapse-spans,linearize-activations"
    graph = graphs["aten"]
    plan = replace(plan_for(graph, data(graph)), calibration=None, dims=(), pipeline=both)
    result = plan.apply_with_records(graph)
    first, second = blocks(graph)
    left = [str(r) for r in result.remarks if r.source == "plan"]
    why = "is still there; the remarks of the passes say why, if any"
    assert left == [
        f"missed: plan: {second.name}: {why}",
        f"missed: plan: {plan.depth[2].collapse.span.name}: {why}",
    ]
    assert said(result, "applied") == [f"applied: collapse-spans: {first.name}: deleted nodes=6"]
