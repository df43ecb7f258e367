"""A stubbed Python API, so that parsing, printing and exit codes are tested without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.text import Text

import otgraph
from otgraph.audit import text
from otgraph.cli.main import run_command
from otgraph.engines.artifact import Built, Layer
from otgraph.errors import ModelError, PlanError
from otgraph.optimize.settings import Settings
from otgraph.remark import Remark
from otgraph.task import OutputReading


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON object that it must be."""
        return json.loads(self.out)


class FakeGraph:
    """Writes its tag where a model would be written."""

    signature = SimpleNamespace(inputs=("x: float32[batch, 3]",), outputs=("y: float32[batch, 2]",))
    remarks: tuple[Remark, ...] = ()

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def save(self, path: Path) -> tuple[Remark, ...]:
        Path(path).write_text(self.tag)
        return ()


class FakePlan:
    """Prints one line with brackets, which must not be read as markup."""

    remarks: tuple[Remark, ...] = ()

    def __str__(self) -> str:
        return "conv1 [16] → [8]  damage 0.001"

    def to_json(self) -> dict[str, Any]:
        return {"version": 1}

    def save(self, path: Path) -> None:
        Path(path).write_text("plan")

    @staticmethod
    def load(path: Path) -> FakePlan:
        if not Path(path).exists():
            raise PlanError(f"{path}: cannot be read (No such file or directory); give a plan file")
        return FakePlan()

    def apply(self, graph: FakeGraph, data: Any = None) -> FakeGraph:
        applied = FakeGraph(f"applied with {'none' if data is None else len(data)}")
        applied.remarks = (Remark("applied", "prune-channels", "conv1", "16 to 8"),)
        return applied


class FakeAudit:
    def __init__(self, *, passed: bool) -> None:
        self.passed = passed

    def to_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "latency": {"ratio": 0.6, "high": float("nan")}}

    def save_html(self, path: Path) -> None:
        Path(path).write_text("<html>")


class FakeSettings(SimpleNamespace):
    """Takes what ``Settings`` takes."""

    def __init__(self, budget: Any, **fields: Any) -> None:
        assert fields.keys() <= Settings.__dataclass_fields__.keys()
        super().__init__(budget=budget, **fields)


class FakeApi(SimpleNamespace):
    """Records what each function was called with; a test sets ``credible``, ``passed`` or ``fail``."""

    def __init__(self) -> None:
        super().__init__(
            credible=True, passed=True, missed=None, undone=(), spared=(), failures=(), fail=None
        )
        self.calls = {}
        self.Plan = FakePlan
        self.Settings = FakeSettings
        self.DEFAULT_CRITERION = "rerouting"

    def _note(self, name: str, *args: Any, **kwargs: Any) -> None:
        on_reading = kwargs.pop("on_reading", None)
        self.calls[name] = (args, kwargs)
        if self.fail is not None and name in self.fail:
            raise self.fail[name]
        if on_reading is not None:
            on_reading(OutputReading("classifier", "auto", "y: rows look like logits", "y", "logits", 2))

    def load_model(self, spec: str, shapes: Any) -> FakeGraph:
        self._note("load_model", spec, shapes)
        if spec.startswith("missing"):
            raise ModelError(f"{spec}: no such file; give an .onnx file")
        return FakeGraph("original")

    def optimize(self, graph: FakeGraph, data: Any, settings: FakeSettings, **options: Any) -> Any:
        self._note("optimize", graph, data, **vars(settings), **options)
        settings.progress("thinking")
        return SimpleNamespace(
            graph=FakeGraph("optimized"),
            plan=FakePlan(),
            audit=FakeAudit(passed=self.passed),
            remarks=(Remark("missed", "fold-batch-norm", "bn3", "is shared"), *self.failures),
            cost=SimpleNamespace(cpu_seconds=2.0, wall_seconds=1.0, source="here"),
            credible=self.credible,
            missed=self.missed,
        )

    def make_plan(self, graph: FakeGraph, data: Any, settings: FakeSettings) -> FakePlan:
        self._note("make_plan", graph, data, **vars(settings))
        return FakePlan()

    def audit(self, a: str, b: str, data: Any, **options: Any) -> FakeAudit:
        self._note("audit", a, b, data, **options)
        return FakeAudit(passed=self.passed)

    def inspect(self, graph: FakeGraph, data: Any = None, **options: Any) -> Any:
        self._note("inspect", graph, data, **options)
        return SimpleNamespace(
            dims_text="DIMS",
            blockers_text="BLOCKERS",
            graph_text="GRAPH",
            curves_text="CURVES",
            to_json=lambda: {"dims": []},
        )

    def inspect_depth(self, graph: FakeGraph, data: Any = None, **options: Any) -> Any:
        self._note("inspect_depth", graph, data, **options)
        return SimpleNamespace(text="DEPTH", to_json=lambda: {"spans": []})

    def run_pipeline(self, graph: FakeGraph, text: str, data: Any, **options: Any) -> Any:
        self._note("run_pipeline", graph, text, data, **options)
        check = SimpleNamespace(claim="exact", error=1e-7, limit=1e-5)
        record = SimpleNamespace(
            step="cleanup",
            edits=3,
            cpu_seconds=0.1,
            wall_seconds=0.1,
            check=check,
            undone=None,
            spared=self.spared,
        )
        remark = Remark("applied", "cleanup", "graph", "dead nodes removed", {"nodes": 2})
        return SimpleNamespace(
            graph=FakeGraph("rewritten"),
            remarks=(remark,),
            records=(record,),
            undone=self.undone,
            spared=self.spared,
        )

    def build(self, graph: FakeGraph, path: Path, **options: Any) -> Built:
        self._note("build", graph, path, **options)
        path.write_bytes(b"12345")
        said = (Remark("analysis", "e", "x", "a fact"), Remark("missed", "e", "y", "stays"))
        return Built(1.26, (path,), (Layer("conv", "CONVOLUTION", ("n",)),) * 3, None, said)

    def bench_all(self, models: list[str], data: Any, **options: Any) -> Any:
        self._note("bench_all", models, data, **options)
        fields = {"ms": 1.234, "low": 1.1, "high": 1.3, "clock": "CPU time", "threads": 2}
        artifacts = [{"model": m, "run": {"engine": "here"}, "latency": fields} for m in models]
        ratios = [{"b": m, "ratio": 0.5, "low": 0.4, "high": 0.6} for m in models[1:]]
        return SimpleNamespace(to_json=lambda: {"artifacts": artifacts, "comparisons": ratios})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "otgraph.api", fake)
    monkeypatch.setattr(otgraph, "api", fake, raising=False)
    monkeypatch.setitem(sys.modules, "otgraph.device", fake)
    monkeypatch.setattr(otgraph, "device", fake, raising=False)
    monkeypatch.setattr(text, "summary", lambda audit: Text(f"AUDIT passed={audit.passed}"))
    return fake


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ran]:
    """Run a command in an empty folder that holds ``calib.npz`` (4 samples) and ``test.npz`` (3)."""
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "calib.npz", x=np.zeros((4, 3), np.float32))
    np.savez(tmp_path / "test.npz", x=np.zeros((3, 3), np.float32))

    def run(*arguments: str) -> Ran:
        code = run_command(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
