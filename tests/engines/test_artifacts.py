"""Artifacts from the command line: what is refused before any work, and what a measurement records."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from otgraph.cli.main import run_command
from otgraph.device import bench_all, build
from otgraph.engines.catalog import ENGINES
from otgraph.errors import UsageError
from otgraph.sample import model_path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(model_path().read_bytes())
    return Path("net.onnx")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert run_command(arguments) == 2
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-o", "net.onnx", "--precision", "fp16"), "net.onnx: is the model itself; give another name"),
        (("-o", "a.onnx", "--timing-cache", "net.onnx"), "net.onnx: is the model itself; give another name"),
        (("-o", "a.engine"), "a.engine: engine 'onnxruntime' writes ONNX; give a name that ends in .onnx"),
        (("-o", "a.onnx", "--engine", "openvino"), "writes .xml; give a name that ends so"),
        (("-o", "a.onnx", "--shape", "z=9,9"), "'onnxruntime': has no use for --shape, --min-shape"),
        (("-o", "a.xml", "--engine", "openvino", "--threads", "2"), "'openvino': has no use for --threads"),
    ],
)
def test_what_a_build_refuses(
    model: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "build", str(model), *flags)


def test_an_engine_that_runs_none_of_the_files_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(model, Path("net.xml"), engine="openvino")
    said = refused(capsys, "bench", "net.xml", "--engine", "torch")
    assert "engine 'torch': runs none of the files (net.xml is for openvino); leave it out" in said
    np.savez("few.npz", image=np.zeros((2, 1, 28, 28), np.float32))
    said = refused(capsys, "audit", "net.onnx", "net.xml", "--data", "few.npz", "--engine-b", "torch")
    assert "engine 'torch': runs none of the files" in said


def test_an_onnx_model_under_the_name_of_an_engine_is_recognized(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.rename("net.engine")
    assert "net.engine: is an ONNX model, no engine; call it .onnx" in refused(capsys, "bench", "net.engine")


def test_packages_are_named_that_do_not_bring_torch_along() -> None:
    for name, entry in ENGINES.items():
        assert "otgraph[" not in entry.packages, name


def test_bench_says_what_ran_where_on_which_sizes(model: Path) -> None:
    build(model, Path("net.xml"), engine="openvino")
    document = bench_all(["net.onnx", "net.xml"]).to_json()
    schema = json.loads(files("otgraph").joinpath("bench.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(json.dumps(document)), schema)
    runs = [artifact["run"] for artifact in document["artifacts"]]
    assert [run["engine"] for run in runs] == ["onnxruntime", "openvino"]
    assert all(run["version"] and run["shape of image"] == "1×1×28×28" for run in runs)
    del document["artifacts"][0]["run"]["device"]
    with pytest.raises(jsonschema.ValidationError, match="'device' is a required property"):
        jsonschema.validate(document, schema)


@pytest.mark.parametrize(
    ("sizes", "shape", "message"),
    [
        ([1, 3, 2**58], None, r"is more than half of the memory; give --shape or --data"),
        (["N", 3, "H"], (1, 3, 2**58), r"is more than half of the memory"),
        (["N", 3, "H"], None, r"say its sizes with --shape x=…, or give --data"),
        (["N", 3, 8], (1, 3, 9), r"shape of 'x': \(1, 3, 9\) does not fit"),
    ],
)
def test_bench_makes_up_no_input_that_does_not_fit(
    sizes: list[int | str], shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "net", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=message):
        bench_all([str(tmp_path / "net.onnx")], shapes={} if shape is None else {"x": shape})
