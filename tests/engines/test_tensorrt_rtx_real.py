"""TensorRT for RTX itself: builds for GPUs that are not here. Marked ``gpu``: what needs one to run."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
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
from otgraph.engines.catalog import RTX_MAGIC, engine_of, survey
from otgraph.engines.tensorrt import build as tensorrt_build
from otgraph.engines.tensorrt.features import read_features
from otgraph.errors import ModelError, UsageError
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
    assert code == 2 and "no float32 matrix products or 3-D convolutions for Turing" in said
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


HEAD = '<ir_version: 9, opset_import: ["" : 18]>'
NETWORKS = {
    "image": "net (float[1,3,8,8] x, float[1,3,3,3] k) => (float[1,1,6,6] y) { [c] y = Conv (x, k) }",
    "volume": "net (float[1,3,8,8,8] x, float[1,3,3,3,3] k) => (float[1,1,6,6,6] y) { [c] y = Conv (x, k) }",
    "product": "net (float[4,8] x, float[8,8] k) => (float[4,8] y) { [c] y = MatMul (x, k) }",
    "sum": """net (float[4,8] x, float[8,8] k) => (float[4,8] y) {
        [c] y = Einsum <equation="ab,bc->ac"> (x, k) }""",
    "sizes": "net (float[2,6] x, int64[2] s) => (float[A,B] y) { y = Reshape (x, s) }",
    "resize": """net (float[1,1,4,4] x, int64[4] s) => (float[A,B,C,D] y) {
        y = Resize <mode="nearest"> (x, , , s) }""",
    "nonzero": "net (float[2,3] x) => (int64[2,M] y) { [nz] y = NonZero (x) }",
    "bfloat16": "net (bfloat16[2,3] x) => (bfloat16[2,3] y) { y = Add (x, x) }",
    "double": "net (float[2,3] x) => (double[2,3] y) { y = Cast <to=11> (x) }",
    "int64": "net (int64[2,3] x) => (int64[2,3] y) { y = Add (x, x) }",
}


def network(name: str, folder: Path) -> Path:
    onnx.save(parser.parse_model(f"{HEAD} {NETWORKS[name]}"), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


@pytest.mark.parametrize(
    ("name", "refused"), [("image", False), ("volume", True), ("product", True), ("sum", True)]
)
def test_what_is_refused_for_turing_is_what_tensorrt_lacks_there(
    name: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = network(name, tmp_path), BuildOptions(compute_capabilities=(75,))
    with pytest.raises(UsageError, match="and c is one") if refused else nullcontext():
        build(path, tmp_path / "e.engine", engine="tensorrt-rtx", options=options)
    monkeypatch.setattr(tensorrt_build, "check_turing", lambda *_: None)
    with pytest.raises(ModelError, match=r"operation 'c' for Turing") if refused else nullcontext():
        build(path, tmp_path / "e.engine", engine="tensorrt-rtx", options=options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sizes", r"input s holds the sizes of other tensors, which is not supported"),
        ("resize", r"input s holds the sizes of other tensors, which is not supported"),
        ("nonzero", r"1 node: nz \(NonZero\): TensorRT has no such operator, and no plugin of that name"),
        ("bfloat16", r"x is bfloat16, which tensorrt-rtx cannot take in or give out here"),
        ("double", r"y is double, which tensorrt-rtx cannot take in or give out here"),
    ],
)
def test_what_cannot_be_run_is_not_built(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        build(network(name, tmp_path), tmp_path / "e.engine", engine="tensorrt-rtx")
    assert not (tmp_path / "e.engine").exists()


def test_int64_is_built_and_nothing_is_missed(tmp_path: Path) -> None:
    built = build(network("int64", tmp_path), tmp_path / "e.engine", engine="tensorrt-rtx")
    assert [remark for remark in built.remarks if remark.kind == "missed"] == []


def test_what_is_set_on_a_gpu_has_the_names_of_the_real_module() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    features = read_features(trt)
    assert features.runtime_cache and features.eager_kernels is not None
    assert features.whole_graph_capture is not None
    for kind, names in {
        trt.IRuntimeConfig: ("dynamic_shapes_kernel_specialization_strategy", "cuda_graph_strategy"),
        trt.IExecutionContext: ("is_stream_capturable", "execute_async_v3", "profiler", "set_input_shape"),
        trt.ICudaEngine: ("get_tensor_location", "get_tensor_dtype", "create_runtime_config", "num_layers"),
        trt.TensorLocation: ("HOST", "DEVICE"),
    }.items():
        assert [name for name in names if not hasattr(kind, name)] == []
    with pytest.raises(TypeError):
        trt.nptype(trt.DataType.BF16)


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
    assert report.fidelity.drift < 1e-4 and report.latency.clock == "wall"
    alone = audit(output, output, data, cuda_graph=cuda_graph)
    assert alone.latency.clock == "GPU time" and alone.latency.conditions.sensors
