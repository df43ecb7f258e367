"""Building with TensorRT: the differences between its versions, on stand-ins that have each one's surface."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.engines.artifact import BuildOptions, ShapeRange
from otgraph.engines.tensorrt.engine import TensorRt, TensorRtRtx
from otgraph.engines.tensorrt.features import read_features
from otgraph.engines.tensorrt.inspector import read_layers
from otgraph.engines.tensorrt.log import Line, clean, remarks
from otgraph.errors import EngineMissing, ModelError, UsageError
from otgraph.precision.float16 import to_float16

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3] x) => (float[N,4] y) {
    [conv] c = MatMul (x, w)
    [relu] y = Relu (c)
}"""


def model(text: str = TEXT) -> onnx.ModelProto:
    proto = parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_features_are_read_off_the_module(stand_in, fake_cuda) -> None:
    ten, eleven, rtx = (read_features(stand_in(each)) for each in ("10", "11", "rtx"))
    assert (ten.network_flags, eleven.network_flags, rtx.network_flags) == (2, 0, 1)
    assert [each.builds_ahead for each in (ten, eleven, rtx)] == [False, False, True]
    assert list(rtx.compute_capabilities) == [75, 86, 120]
    assert [each.timing_cache for each in (ten, eleven, rtx)] == [True, True, False]
    assert [each.runtime_cache for each in (ten, eleven, rtx)] == [False, False, True]
    assert rtx.whole_graph_capture == "WHOLE" and ten.whole_graph_capture is None
    assert rtx.eager_kernels == "EAGER" and ten.eager_kernels is None


@pytest.mark.parametrize("surface", ["10", "11"])
def test_tensorrt_builds_on_its_gpu(surface: str, stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    trt = stand_in(surface, cuda)
    built = TensorRt(trt, cuda).build(path, tmp_path / "net.engine", BuildOptions())
    network, config = trt.builds[0]
    assert network.creation_flags == (2 if surface == "10" else 0)
    assert "TF32" not in config.flags  # float32 means float32
    assert config.profiles == [{"x": ((1, 3), (1, 3), (1, 3))}]
    assert [layer.nodes for layer in built.layers] == [("conv",), ("relu",)]
    assert built.engine_layers is not None and built.engine_layers[0].nodes == ("conv", "relu")
    assert "FP32" in built.engine_layers[0].dtype
    assert built.bytes == (tmp_path / "net.engine").stat().st_size > 0


def test_remarks_of_the_log_stand_under_the_nodes_names(stand_in, path: Path, tmp_path: Path) -> None:
    built = TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "net.engine", BuildOptions())
    said = {(remark.kind, remark.where): remark.message for remark in built.remarks}
    assert said["missed", "conv"] == "conv: weights are subnormal"
    assert said["analysis", "x"].startswith("is dynamic and built for a batch of 1")
    assert "Total Weights Memory: 64 bytes" in [remark.message for remark in built.remarks]
    assert not any("Parsing node" in remark.message for remark in built.remarks)
    assert built.engine_layers is None  # no GPU to deserialize it on


def test_rtx_builds_for_the_capabilities_asked_for(stand_in, path: Path, tmp_path: Path) -> None:
    trt = stand_in("rtx")
    options = BuildOptions(compute_capabilities=(86, 120), tf32=True)
    TensorRtRtx(trt).build(path, tmp_path / "net.engine", options)
    _, config = trt.builds[0]
    assert config.capabilities == {0: "sm86", 1: "sm120"} and "TF32" in config.flags


def test_an_unknown_capability_lists_the_known(stand_in, path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--compute-capability 90: tensorrt-rtx builds for 75, 86, 120; "):
        TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "e", BuildOptions(compute_capabilities=(90,)))
    assert not (tmp_path / "e").exists()


def test_tensorrt_takes_no_capability(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    with pytest.raises(UsageError, match=r"engine 'tensorrt': builds for the GPU that it runs on; leave"):
        options = BuildOptions(compute_capabilities=(86,))
        TensorRt(stand_in("10", cuda), cuda).build(path, tmp_path / "e", options)


def test_turing_is_refused_in_float32_and_built_in_float16(stand_in, path: Path, tmp_path: Path) -> None:
    trt, options = stand_in("rtx"), BuildOptions(compute_capabilities=(75,))
    with pytest.raises(
        UsageError, match=r"no float32 .* for Turing, and conv is one; build with --precision"
    ):
        TensorRtRtx(trt).build(path, tmp_path / "e", options)
    onnx.save(to_float16(model())[0], tmp_path / "half.onnx")
    TensorRtRtx(trt).build(tmp_path / "half.onnx", tmp_path / "e", options)
    assert trt.builds[0][1].capabilities == {0: "sm75"}


@pytest.mark.parametrize(("axes", "refused"), [("1,8,9", False), ("1,8,9,9", False), ("1,8,9,9,9", True)])
def test_turing_has_float32_convolutions_but_those_of_volumes(
    axes: str, refused: bool, stand_in, tmp_path: Path
) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[{axes}] x, float[{axes}] w) => (float y) {{ y = Conv (x, w) }}"""
    onnx.save(parser.parse_model(text), tmp_path / "net.onnx")
    trt, options = stand_in("rtx"), BuildOptions(compute_capabilities=(75,))
    with pytest.raises(UsageError, match=r"or 3-D convolutions for Turing") if refused else nullcontext():
        TensorRtRtx(trt).build(tmp_path / "net.onnx", tmp_path / "e", options)
    assert len(trt.builds) == (not refused)


@pytest.mark.parametrize("kind", ["double", "bfloat16", "int16", "float8e4m3fn"])
@pytest.mark.parametrize(("where", "axes"), [("x", "N,3"), ("y", "N,4")])
def test_inputs_and_outputs_that_cannot_be_fed_are_refused(
    kind: str, where: str, axes: str, stand_in, tmp_path: Path
) -> None:
    text = TEXT.replace(f"float[{axes}] {where}", f"{kind}[{axes}] {where}")
    onnx.save(model(text), tmp_path / "net.onnx")
    trt = stand_in("rtx")
    with pytest.raises(
        ModelError, match=rf"net\.onnx: {where} is {kind}, which tensorrt-rtx cannot .* float32"
    ):
        TensorRtRtx(trt).build(tmp_path / "net.onnx", tmp_path / "e", BuildOptions())
    assert trt.builds == []


SIZES = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2,6] x, int64[2] sizes) => (float[A,B] y) { y = Reshape (x, sizes) }"""


def test_sizes_as_an_input_are_refused_before_the_build(stand_in, tmp_path: Path) -> None:
    onnx.save(parser.parse_model(SIZES), tmp_path / "net.onnx")
    trt = stand_in("rtx")
    with pytest.raises(
        ModelError, match=r"net\.onnx: input sizes holds the sizes of other tensors, .*constant"
    ):
        TensorRtRtx(trt).build(tmp_path / "net.onnx", tmp_path / "e", BuildOptions())
    assert trt.builds == []


def test_a_plugin_that_is_not_there_is_an_unsupported_operator(stand_in, tmp_path: Path) -> None:
    text = TEXT.replace("[relu] y = Relu (c)", "[nz] d = NonZero (c)\n y = Cast <to=1> (d)")
    onnx.save(model(text), tmp_path / "net.onnx")
    with pytest.raises(
        ModelError, match=r"1 node: nz \(NonZero\): TensorRT has no such operator, and no plugin"
    ):
        TensorRtRtx(stand_in("rtx")).build(tmp_path / "net.onnx", tmp_path / "e", BuildOptions())


def test_an_empty_file_is_no_model(stand_in, path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"net\.onnx: not a readable ONNX file \(it holds no graph\); export"
    ):
        TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "e", BuildOptions())


def test_every_build_is_heard_though_only_the_first_logger_is(stand_in, path: Path, tmp_path: Path) -> None:
    trt = stand_in("rtx")
    TensorRtRtx(trt).build(path, tmp_path / "e", BuildOptions())
    trt.fail = "no kernel for conv"
    with pytest.raises(ModelError, match=r"finds no engine for it: no kernel for conv"):
        TensorRtRtx(trt).build(path, tmp_path / "e", BuildOptions())


def test_unsupported_operators_are_all_listed_before_a_build(stand_in, tmp_path: Path) -> None:
    text = TEXT.replace("[relu] y = Relu (c)", "[one] d = Det (c)\n [two] e = Det (c)\n y = Relu (e)")
    onnx.save(model(text), tmp_path / "net.onnx")
    trt = stand_in("rtx")
    with pytest.raises(ModelError) as caught:
        TensorRtRtx(trt).build(tmp_path / "net.onnx", tmp_path / "e", BuildOptions())
    reason = "TensorRT has no such operator"
    assert str(caught.value).endswith(
        f"net.onnx: tensorrt-rtx does not support 2 nodes: one (Det): {reason}; two (Det): {reason}; replace"
        " them, or use --engine onnxruntime"
    )
    assert trt.builds == [] and not (tmp_path / "e").exists()


def test_a_failed_build_names_the_node(stand_in, path: Path, tmp_path: Path) -> None:
    trt = stand_in("rtx")
    trt.fail = "[codeGenerator.cpp::compile::9] Cannot compile operation 'conv' for this GPU"
    with pytest.raises(ModelError, match=r"finds no engine for it: Cannot compile .* \(node conv\); replace"):
        TensorRtRtx(trt).build(path, tmp_path / "e", BuildOptions())
    assert not (tmp_path / "e").exists()


def test_without_a_gpu_tensorrt_is_missing(stand_in, path: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineMissing, match=r"cannot build here \(CUDA initialization failure .*NVIDIA GPU"):
        TensorRt(stand_in("10")).build(path, tmp_path / "e", BuildOptions())


def test_timings_are_kept_where_they_mean_something(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda, cache = fake_cuda(), tmp_path / "timings"
    options = BuildOptions(timing_cache=cache)
    TensorRt(stand_in("11", cuda), cuda).build(path, tmp_path / "e", options)
    assert cache.read_bytes() == b"timings 2"
    cache.write_bytes(b"of another GPU")
    with pytest.raises(UsageError, match=r"timings: is no timing cache of this TensorRT and GPU; remove it"):
        TensorRt(stand_in("11", cuda), cuda).build(path, tmp_path / "e", options)
    with pytest.raises(UsageError, match=r"engine 'tensorrt-rtx': has no use for --timing-cache"):
        TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "e", options)


def test_ranges_become_the_profile(stand_in, path: Path, tmp_path: Path) -> None:
    trt, ranges = stand_in("rtx"), {"x": ShapeRange((1, 3), (4, 3), (8, 3))}
    built = TensorRtRtx(trt).build(path, tmp_path / "e", BuildOptions(shapes=ranges))
    assert trt.builds[0][1].profiles == [{"x": ((1, 3), (4, 3), (8, 3))}]
    assert not any("batch of 1" in remark.message for remark in built.remarks)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("z", (1, 3), r"shape of 'z': the model has no such input \(it has x\)"),
        ("x", (1, 5), r"shape x=1,5: does not fit the model's \?,3; mend the option"),
    ],
)
def test_ranges_that_do_not_fit(
    name: str, sizes: tuple[int, ...], message: str, stand_in, path: Path, tmp_path: Path
) -> None:
    ranges = {name: ShapeRange(sizes, sizes, sizes)}
    with pytest.raises(UsageError, match=message):
        TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "e", BuildOptions(shapes=ranges))


def test_other_dynamic_axes_must_be_said(stand_in, tmp_path: Path) -> None:
    onnx.save(model(TEXT.replace("float[N,3] x", "float[N,M] x")), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"input 'x': is \?,\?, with more dynamic axes than the first; give"):
        TensorRtRtx(stand_in("rtx")).build(tmp_path / "net.onnx", tmp_path / "e", BuildOptions())


def test_a_corrupted_file_is_a_model_error(stand_in, path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match=r"net\.onnx: not a readable ONNX file \(.*\); export it again"):
        TensorRtRtx(stand_in("rtx")).build(path, tmp_path / "e", BuildOptions())


def test_layers_by_name_alone_and_no_json_at_all() -> None:
    assert [layer.name for layer in read_layers('{"Layers": ["a", "b"]}')] == ["a", "b"]
    assert read_layers("not JSON") == ()


def test_a_line_is_remarked_once(stand_in: Any) -> None:
    lines = [Line("WARNING", "[x.cpp::f::1] conv is slow"), Line("WARNING", "[x.cpp::f::1] conv is slow")]
    (found,) = remarks(lines, ["conv"], "tensorrt")
    assert (found.kind, found.where, found.message) == ("missed", "conv", "conv is slow")


def test_the_method_that_speaks_is_left_out() -> None:
    said = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (c has no kernel)"
    assert clean(said) == "API Usage Error (c has no kernel)"
    assert clean("[a.cpp::b::1] Tensor::shape is odd") == "Tensor::shape is odd"


def test_int64_bindings_are_nothing_missed() -> None:
    said = [
        f"ModelImporter.cpp:1071: Make sure {each} has Int64 binding." for each in ("input x", "output y")
    ]
    assert remarks([Line("WARNING", each) for each in said], ["conv"], "tensorrt") == ()
