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
from otgraph.engines import catalog
from otgraph.engines.artifact import BuildOptions, ShapeRange
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.engines.tensorrt import engine as tensorrt_engine
from otgraph.engines.tensorrt.engine import TensorRt, TensorRtRtx
from otgraph.errors import EngineMissing, ModelError
from otgraph.latency.protocol import WARM_UPS, Contestant, contest

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
    assert session.describe()["launch"] == engine.with_cuda_graph().describe()["options"] == "CUDA graph"


def test_a_graph_is_dropped_when_the_shapes_change(engine: TensorRt, path: Path, tmp_path: Path) -> None:
    session = engine.with_cuda_graph().load(tmp_path / "net.engine")
    cuda: Any = engine.cuda
    for batch in (4, 2, 4):  # the buffers are as large as they get from the first on
        session.run(image(batch))
        assert (
            len([each for each in cuda.live.values() if isinstance(each, list) and each != ["stream"]]) == 1
        )
    assert cuda.log.count("capture") == 3


def test_nothing_is_launched_that_is_not_timed_but_the_first_of_a_shape(
    engine: TensorRt, tmp_path: Path
) -> None:
    session = engine.load(tmp_path / "net.engine")
    for calls, launches in ((1, 2), (4, 4), (1, 1)):
        engine.trt.computed.clear()
        session.device_ms(image(2), calls)
        assert len(engine.trt.computed) == launches


def test_memory_is_given_back(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.load(tmp_path / "net.engine")
    cuda: Any = engine.cuda
    session.run(image(1))
    session.run(image(4))
    assert len(cuda.memory) == 2  # the smaller buffers went when larger ones came
    session.device_ms(image(4), 3)
    session.device_ms(image(4), 3)
    assert len(cuda.live) == 3  # a stream and two events, however often they were used
    del session
    assert not cuda.memory and not cuda.live


def test_graphs_are_given_back(engine: TensorRt, tmp_path: Path) -> None:
    session = engine.with_cuda_graph().load(tmp_path / "net.engine")
    for batch in (1, 2, 3):
        session.run(image(batch))
    del session
    cuda: Any = engine.cuda
    assert not cuda.live


def test_layers_are_timed_by_name(engine: TensorRt, tmp_path: Path) -> None:
    session: Any = engine.load(tmp_path / "net.engine")
    times = session.profile(image(1), runs=2)
    assert [(time.name, time.ms) for time in times] == [("conv+relu", 1.5), ("out", 0.5)]
    assert session._context.profiler is None  # it would slow down what comes after


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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"something else", "Serialization \\(.*Magic tag does not match"),
        (b"old", "Serialization \\(.*Version tag does not match"),
        (b"gpu", "API Usage Error \\(.* incompatible device"),
    ],
)
def test_foreign_bytes_are_a_model_error(data: bytes, said: str, engine: TensorRt, tmp_path: Path) -> None:
    (tmp_path / "bad.engine").write_bytes(data)
    with pytest.raises(ModelError, match=rf"bad\.engine: tensorrt cannot load it: {said}.*; build it again"):
        engine.load(tmp_path / "bad.engine")


def test_a_file_that_is_not_there(engine: TensorRt, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.engine: no such file; check the path"):
        engine.load(tmp_path / "nowhere.engine")


def test_without_a_gpu_an_engine_cannot_be_loaded(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda(missing="no NVIDIA GPU answers")
    engine = TensorRtRtx(stand_in("rtx", cuda), cuda, kernels=None)
    engine.build(path, tmp_path / "net.engine", BuildOptions())
    with pytest.raises(
        EngineMissing, match=r"engine 'tensorrt-rtx': cannot load .* here \(no NVIDIA GPU answ"
    ):
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
    assert kept.read_bytes() == b"kernels for 1 shapes"  # compiled when the cache was written, not later
    session.run(image(1))
    engine.load(tmp_path / "net.engine")
    assert [config.cache.known for config in trt.runtime_configs] == [b"", b"kernels for 1 shapes"]
    assert engine.describe()["kernels_for_dynamic_shapes"] == "EAGER"


def test_rtx_keeps_the_kernels_of_every_shape(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    engine = TensorRtRtx(stand_in("rtx", cuda), cuda, kernels=tmp_path)
    engine.build(path, tmp_path / "net.engine", BuildOptions(shapes=SPAN))
    session = engine.load(tmp_path / "net.engine")
    for batch in (1, 2, 1):
        session.device_ms(image(batch), 1)
    (kept,) = tmp_path.glob("kernels-*")
    assert kept.read_bytes() == b"kernels for 2 shapes"


def test_rtx_captures_by_its_own_strategy(stand_in, fake_cuda, path: Path, tmp_path: Path) -> None:
    cuda = fake_cuda()
    trt = stand_in("rtx", cuda)
    engine = TensorRtRtx(trt, cuda, kernels=None).with_cuda_graph()
    session = engine.load(path)
    session.run(image(1))
    assert trt.runtime_configs[-1].cuda_graph_strategy == "WHOLE"
    assert "capture" not in cuda.log  # not twice
    assert session.describe()["launch"] == engine.describe()["options"] == "CUDA graph, captured by TensorRT"


def test_bench_and_audit_measure_by_the_device(
    engine: TensorRt, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "get_engine", lambda name: engine if name == "tensorrt" else OnnxRuntime())
    files = [tmp_path / "net.engine", tmp_path / "net.engine"]
    found = bench_all(files, shapes={"x": (2, 3)})
    first, second = found.measured.latencies
    assert (first.clock, first.ms, second.ms) == ("GPU time", 2.0, 2.0)
    assert found.environment.engine["device"] == "Stand-in 9000"
    data = Data.from_arrays({"x": image(3)["x"]})
    report = audit(tmp_path / "net.engine", tmp_path / "net.engine", data)
    assert report.fidelity.drift == 0 and report.latency.clock == "GPU time"
    assert report.a.structure.macs is None and report.a.run["launch"] == "kernel by kernel"
    assert report.a.run["precision"] == "not told by the engine (inputs float32)"
    mixed = audit(path, tmp_path / "net.engine", data)
    assert mixed.latency.clock == "wall" and mixed.environment.engine_b is not None


def test_held_against_a_cpu_the_gpu_makes_one_launch_per_call(engine: TensorRt, path: Path) -> None:
    contestants = [Contestant(OnnxRuntime(), path, image(1)), Contestant(engine, path, image(1))]
    found = contest(contestants, pairs=5, repeats=1).comparisons[0]
    cuda: Any = engine.cuda
    assert found.clock == "wall"
    assert len(engine.trt.computed) == WARM_UPS + 5 * found.calls
    assert cuda.log.count("upload") == len(engine.trt.computed)  # with the copies, as a user runs it


def test_sizes_in_the_hosts_memory_are_refused(engine: TensorRt, engine_file, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2,6] x, int64[2] sizes) => (float[A,B] y) { y = Reshape (x, sizes) }"""
    (tmp_path / "r.engine").write_bytes(engine_file(parser.parse_model(text), host=["sizes"]))
    with pytest.raises(
        ModelError, match=r"r\.engine: sizes holds the sizes of other tensors, which is not sup"
    ):
        engine.load(tmp_path / "r.engine")
    cuda: Any = engine.cuda
    assert not cuda.live


def test_types_that_numpy_has_not_are_refused(
    engine: TensorRt, engine_file, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.engine").write_bytes(engine_file(onnx.load(path), types={"x": "BF16"}))
    with pytest.raises(
        ModelError, match=r"b\.engine: x is BF16, for which NumPy has no type; build it with fl"
    ):
        engine.load(tmp_path / "b.engine")


def test_integers_and_truth_values_are_fed_and_read(engine: TensorRt, engine_file, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (int64[N,2] x, bool[N,2] b) => (int64[N,2] y, bool[N,2] c) { y = Add (x, x)  c = Not (b) }"""
    (tmp_path / "i.engine").write_bytes(engine_file(parser.parse_model(text)))
    found = engine.load(tmp_path / "i.engine").run(
        {"x": np.array([[1, 2**40]]), "b": np.array([[True, False]])}
    )
    assert found["y"].tolist() == [[2, 2**41]] and found["c"].tolist() == [[False, True]]


def test_sizes_that_depend_on_the_data_are_refused(engine: TensorRt, engine_file, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,2] x, bool[N] b) => (float[M,2] y) { y = Compress <axis = 0> (x, b) }"""
    (tmp_path / "c.engine").write_bytes(engine_file(parser.parse_model(text)))
    session = engine.load(tmp_path / "c.engine")
    with pytest.raises(
        ModelError, match=r"c\.engine: the size of output y depends on the data, which is not"
    ):
        session.run({"x": np.ones((2, 2), np.float32), "b": np.array([True, False])})


def test_after_shapes_that_were_refused_all_is_set_anew(engine: TensorRt, path: Path, tmp_path: Path) -> None:
    session = engine.with_cuda_graph().load(tmp_path / "net.engine")
    session.run(image(2))
    with pytest.raises(ModelError):
        session.run(image(9))
    np.testing.assert_array_equal(session.run(image(2))["y"], OnnxRuntime().load(path).run(image(2))["y"])


def test_shapes_of_which_some_were_refused_are_set_anew(
    engine: TensorRt, engine_file, tmp_path: Path
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,1] a, float[M,1] b) => (float[N,1] c, float[M,1] d) { c = Add (a, a)  d = Add (b, b) }"""
    data = engine_file(parser.parse_model(text), profile={"b": [[1, 1], [2, 1], [4, 1]]})
    (tmp_path / "two.engine").write_bytes(data)
    session = engine.load(tmp_path / "two.engine")

    def ones(a: int, b: int) -> dict[str, Any]:
        return {"a": np.ones((a, 1), np.float32), "b": np.ones((b, 1), np.float32)}

    session.run(ones(2, 2))
    with pytest.raises(ModelError, match=r"b of shape \(9, 1\)"):
        session.run(ones(3, 9))
    assert session.run(ones(2, 2))["c"].shape == (2, 1)


def test_plugins_are_known_before_an_engine_is_loaded(
    stand_in, fake_cuda, engine_file, path: Path, tmp_path: Path
) -> None:
    cuda = fake_cuda()
    (tmp_path / "net.engine").write_bytes(engine_file(onnx.load(path)))
    TensorRt(stand_in("10", cuda), cuda, kernels=None).load(tmp_path / "net.engine").run(image(1))


def test_the_state_is_that_of_the_gpu_in_use(engine: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "gpu_state", lambda gpu: {"clock_mhz": float(gpu == "0000:41:00.0")})
    assert engine.state() == {"clock_mhz": 1.0}
