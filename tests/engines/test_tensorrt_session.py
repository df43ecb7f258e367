"""Running a TensorRT engine, on a stand-in of the CUDA runtime that executes streams as a device does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.data import Data
from otgraph.device import audit, bench_all
from otgraph.engines import catalogue
from otgraph.engines.artifact import BuildOptions, ShapeRange
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.engines.tensorrt.engine import TensorRt, TensorRtRtx
from otgraph.errors import EngineMissing, ModelError

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3] x) => (float[N,4] y) {
    [conv] c = MatMul (x, w)
    [relu] y = Relu (c)
}"""
SPAN = {"x": ShapeRange((1, 3), (2, 3), (4, 3))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    proto = parser.parse_model(TEXT)
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def image(batch: int, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(size=(batch, 3)).astype(np.float32)}


@pytest.fixture
def engine(stand_in, fake_cuda, path: Path, tmp_path: Path) -> TensorRt:
    cuda = fake_cuda()
    made = TensorRt(stand_in("10", cuda), cuda, kernels=None)
    made.build(path, tmp_path / "net.engine", BuildOptions(shapes=SPAN))
    return made


@pytest.mark.parametrize("capture", [False, True])
def test_results_are_those_of_the_model(capture, engine: TensorRt, path: Path, tmp_path: Path) -> None:
    runner = engine.with_cuda_graph() if capture else engine
    session = runner.load(tmp_path / "net.engine")
    plain = OnnxRuntime().load(path)
    for batch, seed in ((2, 0), (2, 1), (4, 2), (1, 3), (2, 4)):  # grows, shrinks, and comes back
        feeds = image(batch, seed)
        np.testing.assert_array_equal(session.run(feeds)["y"], plain.run(feeds)["y"])
    assert [str(spec) for spec in session.inputs] == ["x: float32(?, 3)"]


def test_time_is_that_of_the_device_between_two_events(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.load(tmp_path / "net.engine")
    assert session.timed_by == "device"
    assert session.device_ms(image(2), 5) == 2.0
    cuda: Any = engine.cuda
    uploads = cuda.log.count("upload")
    session.device_ms(image(2), 9)
    assert cuda.log.count("upload") == uploads + 1  # inputs are copied once, outside of the time


def test_a_graph_is_captured_once_per_shape_and_is_what_is_timed(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.with_cuda_graph().load(tmp_path / "net.engine")
    assert session.device_ms(image(2), 4) == session.device_ms(image(2), 8) == 0.5
    cuda: Any = engine.cuda
    assert cuda.log.count("capture") == 1
    session.device_ms(image(1), 4)
    assert cuda.log.count("capture") == 2
    assert session.describe()["launch"] == "CUDA graph"


def test_memory_is_given_back(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.load(tmp_path / "net.engine")
    cuda: Any = engine.cuda
    session.run(image(1))
    session.run(image(4))
    assert len(cuda.memory) == 2  # the smaller buffers went when larger ones came
    del session
    assert not cuda.memory


def test_layers_are_timed_by_name(engine: TensorRt, tmp_path: Path) -> None:
    times = engine.load(tmp_path / "net.engine").profile(image(1), runs=2)
    assert [(time.name, time.ms) for time in times] == [("conv+relu", 1.5), ("out", 0.5)]


def test_shapes_outside_of_the_profile_say_so(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.load(tmp_path / "net.engine")
    with pytest.raises(
        ModelError, match=r"x of shape \(9, 3\) is outside of what the engine was built for; b"
    ):
        session.run(image(9))
    with pytest.raises(ModelError, match=r"no value for input x; give one"):
        session.run({})
    with pytest.raises(ModelError, match=r"x is float64, the engine wants float32"):
        session.run({"x": np.zeros((1, 3))})


def test_an_onnx_file_is_built_and_run(engine: TensorRt, path: Path) -> None:
    for model in (path, path.read_bytes()):
        feeds = image(1)
        expected = OnnxRuntime().load(path).run(feeds)["y"]
        np.testing.assert_array_equal(engine.load(model).run(feeds)["y"], expected)


def test_an_onnx_file_is_built_once_until_it_changes(engine: TensorRt, path: Path) -> None:
    before = len(engine.trt.builds)
    for _ in range(3):
        engine.load(path)
    assert len(engine.trt.builds) == before + 1
    proto = onnx.load(path)
    proto.doc_string = "changed"
    onnx.save(proto, path)
    engine.load(path)
    assert len(engine.trt.builds) == before + 2


def test_foreign_bytes_are_a_model_error(engine: TensorRt, tmp_path: Path) -> None:
    (tmp_path / "bad.engine").write_bytes(b"something else")
    with pytest.raises(
        ModelError, match=r"bad\.engine: tensorrt cannot load it: Serialization assertion .*; b"
    ):
        engine.load(tmp_path / "bad.engine")
    with pytest.raises(ModelError, match=r"nowhere\.engine: no such file; check the path"):
        engine.load(tmp_path / "nowhere.engine")


def test_without_a_gpu_an_engine_cannot_be_loaded(stand_in, path: Path, tmp_path: Path) -> None:
    engine = TensorRtRtx(stand_in("rtx"), kernels=None)
    engine.build(path, tmp_path / "net.engine", BuildOptions())
    with pytest.raises(EngineMissing, match=r"engine 'tensorrt-rtx': cannot load .*driver is insufficient"):
        engine.load(tmp_path / "net.engine")


def test_rtx_keeps_its_kernels_between_sessions(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    trt = stand_in("rtx", cuda)
    engine = TensorRtRtx(trt, cuda, kernels=tmp_path)
    engine.build(path, tmp_path / "net.engine", BuildOptions())
    session = engine.load(tmp_path / "net.engine")
    assert not list(tmp_path.glob("kernels-*"))
    session.run(image(1))
    (kept,) = tmp_path.glob("kernels-*")
    assert kept.read_bytes() == b"kernels"
    engine.load(tmp_path / "net.engine")
    assert [config.cache.known for config in trt.runtime_configs] == [b"", b"kernels"]


def test_rtx_captures_by_its_own_strategy(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    trt = stand_in("rtx", cuda)
    engine = TensorRtRtx(trt, cuda, kernels=None).with_cuda_graph()
    session = engine.load(path)
    session.run(image(1))
    assert trt.runtime_configs[-1].cuda_graph_strategy == "WHOLE"
    assert "capture" not in cuda.log  # not twice


def test_bench_and_audit_measure_by_the_device(
    engine: TensorRt, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "get_engine", lambda name: engine if name == "tensorrt" else OnnxRuntime())
    files = [tmp_path / "net.engine", tmp_path / "net.engine"]
    found = bench_all(files, shapes={"x": (2, 3)})
    first, second = found.measured.latencies
    assert (first.clock, first.ms, second.ms) == ("GPU time", 2.0, 2.0)
    assert found.environment.engine["device"] == "Stand-in 9000"
    data = Data.from_arrays({"x": image(3)["x"]})
    report = audit(tmp_path / "net.engine", tmp_path / "net.engine", data)
    assert report.fidelity.drift == 0 and report.latency.clock == "GPU time"
    assert report.a.structure.macs is None and report.a.run["launch"] == "kernel by kernel"
    mixed = audit(path, tmp_path / "net.engine", data)
    assert mixed.latency.clock == "wall" and mixed.environment.engine_b is not None
