"""Data bound to a model: named and checked once, trusted by all that is handed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import otgraph as otg
from otgraph import api, data_model
from otgraph.data import Data
from otgraph.data_check import TensorSpec, check_data
from otgraph.data_model import ModelData
from otgraph.errors import DataError
from otgraph.graph.graph import Graph
from otgraph.graph.specs import bind

FLOAT = np.dtype(np.float32)


def spec(name: str = "x", *shape: int | str, dtype: Any = FLOAT) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), ("batch", *shape))


def arrays(count: int = 6, width: int = 3) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The source of all data that were looked through, in order."""
    seen: list[str] = []

    def counted(data: Data, specs: Any) -> None:
        seen.append(data.source)
        check_data(data, specs)

    monkeypatch.setattr(data_model, "check_data", counted)
    return seen


def test_it_is_named_and_checked(checks: list[str]) -> None:
    bound = ModelData.of(Data.from_arrays({"": arrays()}, source="mine"), [spec("x", 3)])
    assert list(bound.chunks[0].arrays) == ["x"] and bound.source == "mine" and len(bound) == 6
    assert checks == ["mine"]
    with pytest.raises(DataError, match=r"mine: x: has shape \(…, 3\), the model wants \(batch, 4\)"):
        ModelData.of(Data.from_arrays({"": arrays()}, source="mine"), [spec("x", 4)])


def test_what_is_bound_is_bound_for_free_and_so_are_its_parts(checks: list[str]) -> None:
    bound = ModelData.of(Data.from_arrays({"": arrays()}), [spec("x", 3)])
    for part in (bound, bound.take(2), bound.take(3, seed=1), *bound.halves(0.5), *bound.split(0.5, 0)):
        assert isinstance(part, ModelData) and part.specs == bound.specs
        assert ModelData.of(part, [spec("x", 3)]) is part
        assert ModelData.of(part, [spec("x", "columns")]) is part  # free where the check was stricter
    assert len(checks) == 1


OTHER = {
    "name": spec("z", 3),
    "type": spec("x", 3, dtype=np.int64),
    "rank": spec("x", 3, 1),
    "size": spec("x", 4),
}


@pytest.mark.parametrize("kind", OTHER)
def test_another_model_looks_for_itself(checks: list[str], kind: str) -> None:
    bound = ModelData.of(Data.from_arrays({"x": arrays()}), [spec("x", 3)])
    with pytest.raises(DataError):
        ModelData.of(bound, [OTHER[kind]])
    assert len(checks) == 2


def test_a_size_that_was_free_is_no_promise(checks: list[str]) -> None:
    bound = ModelData.of(Data.from_arrays({"x": arrays()}), [spec("x", "columns")])
    assert ModelData.of(bound, [spec("x", 3)]) is not bound and len(checks) == 2


# a whole run


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    return otg.capture(module.eval(), (torch.randn(2, 3, 8, 8),))


def images(source: str, count: int = 16) -> Data:
    x = np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)
    return Data.from_arrays({"": x}, source=source)


@pytest.fixture
def onnx_file(graph: Graph, tmp_path: Path) -> Iterator[Path]:
    graph.save(tmp_path / "a.onnx")
    yield tmp_path / "a.onnx"


RUNS: dict[str, Callable[[Graph, Data], Any]] = {
    "make_plan": lambda g, d: otg.make_plan(g, d, keep=0.5),
    "plan and apply": lambda g, d: otg.make_plan(g, d, keep=0.5).apply(g),
    "optimize": lambda g, d: otg.optimize(g, d, keep=0.5),
    "inspect": lambda g, d: otg.inspect(g, d),
    "inspect_depth": lambda g, d: api.inspect_depth(g, d),
    "run_pipeline": lambda g, d: otg.run_pipeline(g, "annotate-width", d),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_arrays_are_looked_through_once(graph: Graph, checks: list[str], run: str) -> None:
    RUNS[run](graph, images("calib"))
    assert checks == ["calib"]


def test_those_of_the_audit_too(graph: Graph, checks: list[str], onnx_file: Path) -> None:
    otg.optimize(graph, images("calib"), keep=0.5, evaluation=images("test", 4))
    assert sorted(checks) == ["calib", "test"]
    checks.clear()
    otg.audit(onnx_file, graph, images("test", 4), repeats=1)
    assert checks == ["test"]


def test_a_plan_is_applied_to_foreign_data_only_after_a_look(graph: Graph, checks: list[str]) -> None:
    plan = otg.make_plan(graph, bind(images("calib"), graph), keep=0.5)
    checks.clear()
    with pytest.raises(DataError, match="holds 192 NaN in sample"):
        plan.apply(graph, Data.from_arrays({"": np.full((4, 3, 16, 16), np.nan, np.float32)[:, :, :8, :8]}))
    assert len(checks) == 1
