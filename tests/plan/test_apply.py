"""Applying a plan: the right model, the right data, and what is left out without data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.data import Data
from otgraph.errors import PipelineError, PlanError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse, Span
from otgraph.graph.specs import bind
from otgraph.plan import apply as plan_apply
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan
from otgraph.remark import Remark
from otgraph.rewrite.contract import AnalysisPass, Context, Exactness, Pass, TransformPass
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.rewriter import Rewriter

SEEN: list[tuple[str, Context]] = []


@dataclass(frozen=True)
class Look(AnalysisPass):
    """Stands for the passes that need no data."""

    name: ClassVar[str] = "look"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        SEEN.append((self.name, context))


@dataclass(frozen=True)
class Cut(TransformPass):
    """Cuts what the plan says."""

    name: ClassVar[str] = "cut"
    exactness: ClassVar[Exactness] = Exactness.MASKED

    def run(self, rewriter: Rewriter, context: Context) -> None:
        SEEN.append((self.name, context))
        keep = {name: coupling.mask() for name, coupling in context.couplings.items()}
        if keep:
            cut_channels(rewriter, analyze(rewriter.graph), keep)


@dataclass(frozen=True)
class Repair(Look):
    """Stands for the passes that do."""

    name: ClassVar[str] = "repair-it"


@dataclass(frozen=True)
class Breaks(TransformPass):
    """Claims to be exact, and is not."""

    name: ClassVar[str] = "breaks"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        rewriter.set_tensor("2.weight", rewriter.graph.tensor("2.weight") * 2)


@dataclass(frozen=True)
class Explains(AnalysisPass):
    """Leaves every span as it is, and says so."""

    name: ClassVar[str] = "explains"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        for collapse in context.collapses:
            rewriter.remark("missed", collapse.span.name, "for a reason")


@pytest.fixture(autouse=True)
def _passes(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, type[Pass]] = {
        "explains": Explains,
        "cut": Cut,
        "look": Look,
        "repair-it": Repair,
        "breaks": Breaks,
    }
    monkeypatch.setattr(plan_apply, "parse_pipeline", lambda text: parse_pipeline(text, known))
    SEEN.clear()


def _graph(seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return capture(module, (torch.randn(2, 3),))


def _data(source: str = "memory") -> Data:
    return Data.from_arrays({"input_1": np.arange(12, dtype=np.float32).reshape(4, 3)}, source=source)


def _plan(graph: Graph, **fields: Any) -> Plan:
    dims = (DimDecision("0", 4, (0, 2), (0, 0, 2, -1), {"2.weight": (1.0, 0.5, 1.0, 0.0)}),)
    return Plan(
        "m", fingerprint_graph(graph), Budget("keep", 0.5), "cut,repair-it,look", dims, seed=3, **fields
    )


def test_passes_get_the_decisions_the_data_and_the_original() -> None:
    graph, data = _graph(), _data()
    small = replace(graph, remarks=(Remark("analysis", "capture", "x", "old"),))
    result = _plan(graph).apply(small, data)
    assert [name for name, _ in SEEN] == ["cut", "repair-it", "look"]
    context = SEEN[1][1]
    assert context.data == bind(data, graph) and (context.original, context.seed) == (small, 3)
    assert context.couplings["0"].target.tolist() == [0, 0, 2, -1]
    assert result.remarks[: len(small.remarks)] == small.remarks
    assert result.tensor("2.weight").shape == (2, 2) and graph.tensor("2.weight").shape == (2, 4)


def test_data_in_memory_is_used() -> None:
    graph = _graph()
    records = replace(_plan(graph), data=_data()).apply_with_records(graph).records
    assert [record.step for record in records] == ["cut", "repair-it", "look"]


def test_recorded_data_is_used_while_it_is_the_same(tmp_path: Path) -> None:
    graph, path = _graph(), tmp_path / "calib.npz"
    np.savez(path, input_1=_data().chunks[0].arrays["input_1"])
    plan = _plan(graph, calibration=CalibrationReference.of(_data(str(path))))
    plan.apply(graph)
    assert [name for name, _ in SEEN] == ["cut", "repair-it", "look"]
    assert SEEN[0][1].data is not None and len(SEEN[0][1].data) == 4

    np.savez(path, input_1=np.zeros((4, 3), np.float32))
    SEEN.clear()
    changed = plan.apply(graph)
    assert [name for name, _ in SEEN] == ["cut", "look"]
    assert f"{path} holds other data than the plan was made with" in changed.remarks[-1].message


def test_a_part_of_the_recorded_data_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "calib.npz"
    np.savez(path, input_1=_data().chunks[0].arrays["input_1"])
    found, _ = CalibrationReference.of(_data(str(path)).take(2)).find()
    assert found is not None and len(found) == 2


@pytest.mark.parametrize(
    ("calibration", "why"),
    [
        (None, "the plan names no calibration data"),
        (CalibrationReference("gone.npz", "0" * 16, 4), "no file or folder gone.npz"),
        (CalibrationReference("os:getcwd", "0" * 16, 4), "no file or folder os:getcwd"),
    ],
)
def test_without_data_the_repairs_are_left_out(calibration: CalibrationReference | None, why: str) -> None:
    graph = _graph()
    result = _plan(graph, calibration=calibration).apply_with_records(graph)
    assert [record.step for record in result.records] == ["cut", "look"]
    said = [remark for remark in result.remarks if remark.kind == "missed"]
    assert [str(remark) for remark in said] == [
        f"missed: plan: repair-it: left out: {why}; give the calibration inputs to repair"
    ]


def test_another_model_is_refused() -> None:
    plan = replace(_plan(_graph(0)), origin="plan.json")
    with pytest.raises(PlanError) as error:
        plan.apply(_graph(1), _data())
    assert str(error.value) == (
        "plan.json: made for another model: 0.weight holds other values; make a new plan for this model"
    )
    assert not SEEN


def test_passes_get_the_collapses_and_spans_that_stay_are_named() -> None:
    graph = _graph()
    collapse = Collapse(Span("linear", "relu", ("relu",)), "affine")
    plan = replace(_plan(graph, depth=(DepthAction(collapse),)), pipeline="cut,explains")
    result = plan.apply_with_records(graph, _data())
    assert SEEN[0][1].collapses == (collapse,)
    assert str(result.remarks[0]) == "missed: explains: linear..relu: for a reason"
    result = replace(result, remarks=result.remarks[1:])
    assert [str(remark) for remark in result.remarks] == [
        "missed: plan: linear..relu: is still there; the remarks of the passes say why, if any"
    ]


def test_what_this_version_cannot_do_is_refused() -> None:
    graph = _graph()
    with pytest.raises(PipelineError, match="no pass is called 'melt'"):
        replace(_plan(graph), pipeline="melt").apply(graph)


def test_a_pass_that_breaks_its_claim_is_undone_and_the_rest_goes_on() -> None:
    graph = _graph()
    result = replace(_plan(graph), dims=(), pipeline="look,breaks,look").apply_with_records(graph, _data())
    x = torch.randn(5, 3)
    assert torch.equal(result.graph(x)[0], graph(x)[0])
    assert result.undone == ("breaks",) and len(SEEN) == 2
    (said,) = result.remarks
    assert said.kind == "failure" and "undone: breaks: claims the same outputs (exact)" in said.message


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"pipeline": "look"}, "pipeline: look leaves dim 0 whole, which dims says is to be cut"),
        (
            {"dims": (), "depth": (DepthAction(Collapse(Span("linear", "relu", ("relu",)), "affine")),)},
            "pipeline: cut,repair-it,look leaves linear..relu as it is, which depth says goes",
        ),
    ],
)
def test_a_decision_that_the_pipeline_does_not_carry_out_is_refused(
    fields: dict[str, Any], text: str
) -> None:
    graph = _graph()
    with pytest.raises(PlanError) as error:
        replace(_plan(graph), **fields).apply(graph, _data())
    assert str(error.value).startswith(f"plan: {text}")
