"""TensorRT for RTX itself: builds for GPUs that are not here. Marked ``gpu``: what needs one to run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from otgraph import sample
from otgraph.cli.main import run_command
from otgraph.data import Data
from otgraph.device import audit, build
from otgraph.engines.artifact import BuildOptions
from otgraph.engines.catalogue import RTX_MAGIC, engine_of, survey
from otgraph.errors import ModelError
from otgraph.sample import calibration_path, model_path

pytest.importorskip("tensorrt_rtx")

WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
MISSING = {each.name: each.runs for each in survey()}


def test_the_sample_is_built_for_three_generations(tmp_path: Path) -> None:
    output = tmp_path / "digits.engine"
    options = BuildOptions(compute_capabilities=(86, 89, 120))
    built = build(model_path(), output, engine="tensorrt-rtx", options=options)
    assert output.read_bytes()[:4] == RTX_MAGIC and engine_of(output) == "tensorrt-rtx"
    convolutions = [layer for layer in built.layers if layer.kind == "CONVOLUTION"]
    names = {node.name for node in onnx.load(model_path()).graph.node}
    assert len(convolutions) == 21
    assert all(set(layer.nodes) <= names for layer in convolutions)
    assert any("Total Weights Memory" in remark.message for remark in built.remarks)


@pytest.mark.slow
def test_weights_take_half_the_bytes_in_float16_and_a_quarter_in_int8(tmp_path: Path) -> None:
    """Of weights: an int8 engine is the larger file, for the kernels' source text that it holds per layer."""
    sizes, weights = {}, {}
    with np.load(calibration_path()) as held:
        data = Data.from_arrays({"image": held["image"][:32]})
    for precision in ("fp32", "fp16", "int8"):
        output = tmp_path / f"{precision}.engine"
        options = BuildOptions(compute_capabilities=(89,))
        built = build(
            model_path(),
            output,
            engine="tensorrt-rtx",
            options=options,
            precision=precision,
            calibration=data,
        )
        sizes[precision] = built.bytes
        stated = [found for remark in built.remarks if (found := WEIGHTS.search(remark.message))]
        weights[precision] = int(stated[0][1])
        kinds = {layer.dtype for layer in built.layers if layer.kind == "CONVOLUTION"}
        assert kinds == {"HALF" if precision == "fp16" else "FLOAT"}
        assert any(layer.kind == "QUANTIZE" for layer in built.layers) == (precision == "int8")
    assert sizes["fp16"] < 0.75 * sizes["fp32"]
    assert 0.49 < weights["fp16"] / weights["fp32"] < 0.52
    assert 0.24 < weights["int8"] / weights["fp32"] < 0.28


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run_command(arguments)
    return code, capsys.readouterr().err


def test_each_way_to_fail_has_its_message_and_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, rtx = str(model_path()), ("--engine", "tensorrt-rtx", "-o", "e.engine")
    code, said = command("build", model, *rtx, "--compute-capability", "75", capsys=capsys)
    assert code == 2 and "no float32 convolutions or matrix products for Turing" in said
    code, said = command("build", model, *rtx, "--compute-capability", "90", capsys=capsys)
    assert code == 2 and "--compute-capability 90: tensorrt-rtx builds for 75, " in said
    Path("cut.onnx").write_bytes(model_path().read_bytes()[:5000])
    code, said = command("build", "cut.onnx", *rtx, capsys=capsys)
    assert code == 2 and said.startswith("error: cut.onnx: not a readable ONNX file")
    if MISSING["tensorrt"] is not None:
        code, said = command("build", model, "--engine", "tensorrt", "-o", "e.engine", capsys=capsys)
        assert code == 3 and said.startswith("error: engine 'tensorrt': not available here")
    if MISSING["tensorrt-rtx"] is not None:
        code, said = command("bench", model, "--engine", "tensorrt-rtx", capsys=capsys)
        assert code == 3 and "no NVIDIA GPU answers" in said
    assert not Path("e.engine").exists()


def test_operators_that_it_does_not_have_are_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
    net (float[N,3] x) => (float[N,3] y) {
        [first] a = mine.Wobble (x)
        [between] b = Relu (a)
        [second] y = mine.Wobble (b)
    }"""
    onnx.save(parser.parse_model(text), tmp_path / "net.onnx")
    with pytest.raises(ModelError) as caught:
        build(tmp_path / "net.onnx", tmp_path / "e.engine", engine="tensorrt-rtx")
    reason = "TensorRT has no such operator, and no plugin of that name"
    listed = f"does not support 2 nodes: first (Wobble): {reason}; second (Wobble): {reason}; replace them"
    assert listed in str(caught.value)


def test_the_layer_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = run_command(
        ["build", str(model_path()), "--engine", "tensorrt-rtx", "-o", "e.engine", "--layers", "l.json"]
    )
    table = json.loads(Path("l.json").read_text())
    assert code == 0 and len(table["network"]) > 60
    assert (table["engine"] is None) == (MISSING["tensorrt-rtx"] is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_a_gpu_the_engine_gives_what_the_model_gives(name: str, cuda_graph: bool, tmp_path: Path) -> None:
    if MISSING[name] is not None:
        pytest.skip(str(MISSING[name]))
    output = tmp_path / "digits.engine"
    built = build(model_path(), output, engine=name)
    assert built.engine_layers
    with np.load(sample.test_path()) as held:
        data = Data.from_arrays({"image": held["image"][:64]})
    report = audit(model_path(), output, data, cuda_graph=False)
    assert report.fidelity.drift < 1e-4
    alone = audit(output, output, data, cuda_graph=cuda_graph)
    assert alone.latency.clock == "GPU time" and alone.latency.conditions.sensors
