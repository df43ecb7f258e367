"""The Python API: names at the top of the package, inputs in every form, settings, and whole runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import otgraph as otg
from otgraph.errors import DataError, EngineMissing, OtgraphError, PipelineError, UsageError
from otgraph.graph.graph import Graph
from otgraph.optimize import run
from otgraph.rewrite.masking import relative_error


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return otg.capture(network(), (torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def optimized(graph: Graph) -> otg.Optimized:
    return otg.optimize(graph, images(), keep=0.5)


# names


ORDERS = {
    "before": "import otgraph as otg; first = otg.audit; import otgraph.audit.report, otgraph.load",
    "after": "import otgraph.audit.report, otgraph.optimize.run; import otgraph as otg; first = otg.audit",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.slow
def test_functions_win_over_submodules_of_their_name(order: str) -> None:
    check = (
        "import types\n"
        "from otgraph import audit, load, optimize\n"
        "from otgraph.audit.compare import audit as files\n"
        "for f in (first, otg.audit, audit, load, otg.load, optimize, otg.optimize):\n"
        "    assert isinstance(f, types.FunctionType) and f.__module__ == 'otgraph.api', f\n"
    )
    run_python(f"{ORDERS[order]}\n{check}")


def test_importing_the_package_imports_nothing_heavy() -> None:
    run_python(
        "import sys, otgraph\n"
        "assert 'audit' in dir(otgraph) and 'Graph' in dir(otgraph)\n"
        "assert not {'torch', 'numpy', 'onnx', 'typer'} & set(sys.modules)"
    )


def run_python(text: str) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_every_name_is_there() -> None:
    for name in otg.__all__:
        assert getattr(otg, name) is not None and name in dir(otg)
    with pytest.raises(AttributeError, match="nothing"):
        _ = otg.nothing  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"otgraph\.audit: belongs to the API; set it on otgraph\.api"):
        otg.audit = print  # type: ignore[assignment]


# inputs


def test_inputs_come_in_every_form(graph: Graph, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input_1=images())
    forms: list[Any] = [
        *(images(), {"input_1": images()}, str(tmp_path / "x.npz")),
        otg.Data.from_arrays({"input_1": images()}),
    ]
    plans = [otg.make_plan(graph, form, keep=0.5) for form in forms]
    assert len({str(plan.dims) for plan in plans}) == 1


WRONG: dict[str, tuple[Any, str]] = {
    "type": (np.full((8, 3, 8, 8), 1e300), r"input_1: 1e\+300 in sample 0 is float64, and no such number is"),
    "integers": (images().astype(np.int32), r"input_1: int32, the model wants float32"),
    "shape": (images()[:, :2], r"input_1: has shape \(…, 2, 8, 8\), the model wants \(.*, 3, 8, 8\)"),
    "name": (
        {"picture": images(), "other": images()},
        r"no array for input 'input_1' \(has: other, picture\)",
    ),
    "nan": (np.where(images() > 2, np.nan, images()).astype(np.float32), r"input_1: holds \d+ NaN in sample"),
    "empty": (images()[:0], r"is empty"),
    "too few": (images(3), r"holds 3 samples; give at least 4"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_inputs_that_do_not_fit(graph: Graph, kind: str) -> None:
    given, message = WRONG[kind]
    with pytest.raises(DataError, match=message):
        otg.make_plan(graph, given, keep=0.5)


@pytest.mark.parametrize("kind", ["type", "shape", "nan"])
def test_they_are_refused_wherever_they_enter(graph: Graph, kind: str, optimized: otg.Optimized) -> None:
    given, message = WRONG[kind]
    with pytest.raises(DataError, match=message):
        otg.run_pipeline(graph, "annotate-width", given)
    with pytest.raises(DataError, match=message):
        optimized.plan.apply(graph, otg.Data.from_arrays({"": given}))
    with pytest.raises(DataError, match=message):
        otg.optimize(graph, images(), keep=0.5, evaluation=given)


ERRORS: dict[str, tuple[type[OtgraphError], dict[str, Any], str]] = {
    "no budget": (UsageError, {}, "budget: none was given"),
    "two budgets": (UsageError, {"keep": 0.5, "latency": "0.5x"}, "latency and keep were given"),
    "moves": (
        UsageError,
        {"latency": "0.6x", "moves": "deep"},
        "moves 'deep': is none of both, width, depth",
    ),
    "setting": (UsageError, {"keep": 0.5, "color": "red"}, "settings: .*color"),
    "engine": (UsageError, {"keep": 0.5, "engine": "abacus"}, "engine 'abacus': unknown"),
    "metric": (UsageError, {"keep": 0.5, "metric": "nothing"}, "metric 'nothing': write it as"),
    "no such metric": (UsageError, {"keep": 0.5, "metric": "nothing:here"}, "there is no module nothing"),
    "criterion": (UsageError, {"keep": 0.5, "criterion": "nose"}, "criterion 'nose'"),
    "task": (UsageError, {"keep": 0.5, "task": "ranking"}, "task 'ranking': unknown; give auto, classifier"),
    "no dim": (UsageError, {"keep": 0.5, "include": ["nothing"]}, "no dim may be cut"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_choices_that_cannot_work(graph: Graph, kind: str) -> None:
    error, choices, message = ERRORS[kind]
    with pytest.raises(error, match=message):
        otg.optimize(graph, images(), **choices)
    with pytest.raises(PipelineError, match="no pass is called 'x'"):
        otg.run_pipeline(graph, "x")


def test_a_missing_engine_is_said_before_any_work(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise EngineMissing("engine: not here; install it")

    monkeypatch.setattr(run, "get_engine", missing)
    with pytest.raises(EngineMissing, match="not here"):
        otg.optimize(graph, images(), keep=0.5)


# whole runs


def test_the_network_is_smaller_measured_and_runs(
    graph: Graph, optimized: otg.Optimized, tmp_path: Path
) -> None:
    before, after = (sum(t.numel() for t in g.tensors().values()) for g in (graph, optimized.graph))
    assert after < 0.6 * before
    optimized.graph.save(tmp_path / "small.onnx")
    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    x = images(3)
    ran = session.run(None, {"input_1": x})
    assert relative_error(optimized.graph(torch.from_numpy(x)), tuple(map(torch.from_numpy, ran))) <= 1e-5
    assert optimized.missed is None and optimized.cost.cpu_seconds > 0


def test_a_stated_task_is_what_everything_judges_by(graph: Graph, optimized: otg.Optimized) -> None:
    told: list[str] = []
    assert optimized.audit.fidelity.task == "regression"  # of a network that was never trained
    assert optimized.audit.fidelity.task_asked == "auto"
    assert optimized.plan.pipeline.count("task=regression") == 1  # what was decided, for whoever applies it
    scores = otg.optimize(
        graph, images(), keep=0.5, task="classifier", on_reading=lambda reading: told.append(reading.text)
    )
    assert scores.audit.fidelity.classification is not None
    assert scores.audit.fidelity.task_asked == "classifier"
    assert scores.plan.pipeline.count("task=classifier") == 1
    assert told == ["classifier of 5 classes, damage is KL; as asked"]


def test_the_audit_names_no_temporary_file(optimized: otg.Optimized) -> None:
    text = str(optimized.audit.to_json())
    assert "/tmp" not in text and "otgraph-" not in text
    name = optimized.plan.model
    assert (optimized.audit.a.path, optimized.audit.b.path) == (name, f"{name}, optimized")


def test_plan_save_load_apply_gives_the_same_network(
    graph: Graph, optimized: otg.Optimized, tmp_path: Path
) -> None:
    optimized.plan.save(tmp_path / "plan.json")
    again = otg.Plan.load(tmp_path / "plan.json").apply(graph, otg.Data.from_arrays({"": images()}))
    assert again.tensors().keys() == optimized.graph.tensors().keys()
    for name, tensor in again.tensors().items():
        assert torch.equal(tensor, optimized.graph.tensor(name)), name
    bare = otg.Plan.load(tmp_path / "plan.json").apply(graph)
    assert any("left out" in str(remark) for remark in bare.remarks)
    assert relative_error(optimized.graph(*graph.example), bare(*graph.example)) > 1e-5


def test_a_part_of_the_inputs_is_found_again(graph: Graph, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input_1=images())
    part = otg.load_data(str(tmp_path / "x.npz")).take(8, seed=3)
    plan = otg.make_plan(graph, part, keep=0.5, seed=3)
    plan.save(tmp_path / "plan.json")
    small, again = plan.apply(graph), otg.Plan.load(tmp_path / "plan.json").apply(graph)
    assert not any("left out" in str(remark) for remark in again.remarks)
    assert relative_error(small(*graph.example), again(*graph.example)) == 0


def test_graphs_and_files_are_audited(graph: Graph, optimized: otg.Optimized, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.onnx")
    report = otg.audit(tmp_path / "a.onnx", optimized.graph, images(4), repeats=1, max_drift=1e-9)
    assert report.a.path == str(tmp_path / "a.onnx") and report.b.path == optimized.graph.name
    assert not report.passed and report.fidelity.drift > 1e-9
    report.save_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!")


def test_bench_and_build(graph: Graph, tmp_path: Path) -> None:
    otg.build(graph, tmp_path / "e.onnx")
    assert otg.bench(str(tmp_path / "e.onnx")).ms > 0
    assert otg.bench(str(tmp_path / "e.onnx"), images(2)).ms > 0


def test_inspect(graph: Graph) -> None:
    found = otg.inspect(graph)
    assert "2 of" in found.dims_text or "3 of" in found.dims_text
    assert found.to_json()["dims"]


def test_a_pipeline(graph: Graph) -> None:
    result = otg.run_pipeline(graph, "annotate-width,prune-channels{keep=0.5},fold-batch-norm", images())
    assert [record.undone for record in result.records] == [None] * 3
    assert result.graph.tensor("0.weight").shape[0] == 8
