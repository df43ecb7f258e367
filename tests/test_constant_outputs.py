"""Networks of which a part computes on stored values alone: no pass may trip over what has no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.cli.main import run_command

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
apart (float[N,4] x) => (float[N,4] y, float[1,4] z) {
    a = Gemm <transB = 1> (x, w1)
    b = Relu (a)
    y = Gemm <transB = 1> (b, w2)
    c = Gemm <transB = 1> (k, w3)
    d = Relu (c)
    z = Gemm <transB = 1> (d, w4)
}"""
SHAPES = {"w1": (8, 4), "w2": (4, 8), "w3": (8, 6), "w4": (4, 8), "k": (1, 6)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    model = parser.parse_model(MODEL)
    for name, shape in SHAPES.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, "apart.onnx")
    np.savez("calib.npz", x=rng.normal(size=(80, 4)).astype(np.float32))
    return tmp_path


PIPELINES = (
    "annotate-width",
    "annotate-depth",
    "annotate-width,prune-channels{keep=0.5},repair-least-squares",
    "prune-channels{keep=0.5},repair-moments",
    "prune-channels{keep=0.5},repair-least-squares",
)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_passes_leave_what_has_no_data_alone(
    folder: Path, pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(["run", "apart.onnx", "-p", pipeline, "--calib", "calib.npz", "-o", "out.onnx"])
    assert code == 0, capsys.readouterr().err
    assert onnx.load("out.onnx").graph.output


def test_inspect_says_what_was_not_observed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", "apart.onnx", "--calib", "calib.npz"]) == 0
    assert "k[1]: nothing that reads it could be observed; kept whole" in capsys.readouterr().out


def test_a_model_that_runs_on_its_own_example_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("apart.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "one"))
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "one"], ["only"]))
    model.graph.node[1].input[0] = "only"
    onnx.save(model, "one.onnx")
    assert run_command(["inspect", "one.onnx", "--calib", "calib.npz"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: calib.npz: one does not run on 2 of these inputs (") and "mistake" not in said
    )
