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
from otgraph.rewrite.contract import AnalysisPass, Context, Pass, TransformPass
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.rewriter import Rewriter

SEEN: list[tuple[str, Context]] = []


@dataclass(frozen=True)
class Cut(AnalysisPass):
    """Stands for the passes that need no data."""

    name: ClassVar[str] = "cut"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        SEEN.append((self.name, context))


@dataclass(frozen=True)
class Repair(Cut):
    """Stands for the passes that do."""

    name: ClassVar[str] = "repair-it"


@dataclass(frozen=True)
class Breaks(TransformPass):
    """Claims to be exact, and is not."""

    name: ClassVar[str] = "breaks"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        rewriter.set_tensor("0.weight", rewriter.graph.tensor("0.weight") * 2)


@pytest.fixture(autouse=True)
def _passes(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, type[Pass]] = {"cut": Cut, "repair-it": Repair, "breaks": Breaks}
    monkeypatch.setattr(plan_apply, "parse_pipeline", lambda text: parse_pipeline(text, known))
    SEEN.clear()


def _graph(seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return capture(module, (torch.randn(2, 3),))


def _data(source: str = "memory") -> Data:
    return Data.from_arrays({"input_1": np.arange(12, dtype=np.float32).reshape(4, 3)}, source=source)


def _plan(graph: Graph, **fields: Any) -> Plan:
    dims = (DimDecision("0.weight", 4, (0, 2), (0, 0, 2, -1), {"2.weight": (1.0, 0.5, 1.0, 0.0)}),)
    return Plan(
        "m", fingerprint_graph(graph), Budget("keep", 0.5), "cut,repair-it,cut", dims, seed=3, **fields
    )


def test_passes_get_the_decisions_the_data_and_the_original() -> None:
    graph, data = _graph(), _data()
    small = replace(graph, remarks=(Remark("analysis", "capture", "x", "old"),))
    result = _plan(graph).apply(small, data)
    assert [name for name, _ in SEEN] == ["cut", "repair-it", "cut"]
    context = SEEN[1][1]
    assert context.data == bind(data, graph) and (context.original, context.seed) == (small, 3)
    assert context.couplings["0.weight"].target.tolist() == [0, 0, 2, -1]
    assert result.remarks[: len(small.remarks)] == small.remarks
    x = torch.randn(5, 3)
    assert torch.equal(result(x)[0], graph(x)[0])


def test_data_in_memory_is_used() -> None:
    graph = _graph()
    records = replace(_plan(graph), data=_data()).apply_with_records(graph).records
    assert [record.step for record in records] == ["cut", "repair-it", "cut"]


def test_recorded_data_is_used_while_it_is_the_same(tmp_path: Path) -> None:
    graph, path = _graph(), tmp_path / "calib.npz"
    np.savez(path, input_1=_data().chunks[0].arrays["input_1"])
    plan = _plan(graph, calibration=CalibrationReference.of(_data(str(path))))
    plan.apply(graph)
    assert [name for name, _ in SEEN] == ["cut", "repair-it", "cut"]
    assert SEEN[0][1].data is not None and len(SEEN[0][1].data) == 4

    np.savez(path, input_1=np.zeros((4, 3), np.float32))
    SEEN.clear()
    changed = plan.apply(graph)
    assert [name for name, _ in SEEN] == ["cut", "cut"]
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
    assert [record.step for record in result.records] == ["cut", "cut"]
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
    result = _plan(graph, depth=(DepthAction(collapse),)).apply_with_records(graph, _data())
    assert SEEN[0][1].collapses == (collapse,)
    assert [str(remark) for remark in result.remarks] == [
        "missed: plan: linear..relu: is still there; the remarks of the passes say why, if any"
    ]


def test_what_this_version_cannot_do_is_refused() -> None:
    graph = _graph()
    with pytest.raises(PipelineError, match="no pass is called 'melt'"):
        replace(_plan(graph), pipeline="melt").apply(graph)


def test_a_pass_that_breaks_its_claim_is_undone_and_the_rest_goes_on() -> None:
    graph = _graph()
    result = replace(_plan(graph), pipeline="cut,breaks,cut").apply_with_records(graph, _data())
    x = torch.randn(5, 3)
    assert torch.equal(result.graph(x)[0], graph(x)[0])
    assert result.undone == ("breaks",) and len(SEEN) == 2
    (said,) = result.remarks
    assert said.kind == "failure" and "undone: breaks: claims the same outputs (exact)" in said.message
