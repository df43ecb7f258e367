"""OpenVINO against ONNX Runtime, and its own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.data import Data
from otgraph.device import audit
from otgraph.engines.artifact import BuildOptions, ShapeRange
from otgraph.engines.catalog import engine_for, get_engine
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError, UsageError
from otgraph.latency.table import LatencyTable

pytest.importorskip("openvino")

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] image) => (float[N,4] logits, float[N,5,6,6] map) {
    [conv] map = Conv <pads = [1, 1, 1, 1]> (image, w)
    [relu] r = Relu (map)
    [pool] a = GlobalAveragePool (r)
    f = Flatten (a)
    [head] logits = Gemm <transB = 1> (f, u)
}"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    proto, draw = parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"w": (5, 3, 3, 3), "u": (4, 5)}.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
        )
    onnx.save(proto, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).normal(size=(count, 3, 6, 6)).astype(np.float32)}


def test_results_are_onnx_runtimes_at_every_batch(path: Path) -> None:
    for model in (path, path.read_bytes()):
        ours, other = get_engine("openvino").load(model), OnnxRuntime().load(path)
        assert [str(spec) for spec in ours.inputs] == ["image: float32(?, 3, 6, 6)"]
        for count in (1, 4, 2, 1):
            expected = other.run(images(count))
            found = ours.run(images(count))
            assert list(found) == ["logits", "map"]
            for name, value in found.items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_results_stay_when_the_session_runs_again(path: Path) -> None:
    session = get_engine("openvino").load(path)
    first = session.run(images(1, 0))["logits"]
    kept = first.copy()
    session.run(images(1, 1))
    np.testing.assert_array_equal(first, kept)


def test_its_own_file_is_built_and_found_by_its_suffix(path: Path, tmp_path: Path) -> None:
    built = get_engine("openvino").build(path, tmp_path / "net.xml", BuildOptions())
    assert [file.name for file in built.files] == ["net.xml", "net.bin"] and built.bytes > 600
    assert not list(tmp_path.glob(".*"))
    session = engine_for(tmp_path / "net.xml", None).load(tmp_path / "net.xml")
    expected = OnnxRuntime().load(path).run(images(2))["logits"]
    np.testing.assert_allclose(session.run(images(2))["logits"], expected, rtol=1e-4, atol=1e-5)
    assert session.describe() == {"batch": "?", "precision": "fp32", "threads": "1"}


def test_a_shape_is_built_in(path: Path, tmp_path: Path) -> None:
    one = (1, 3, 6, 6)
    shapes = {"image": ShapeRange(one, one, one)}
    engine = get_engine("openvino")
    engine.build(path, tmp_path / "net.xml", BuildOptions(shapes=shapes))
    assert engine.load(tmp_path / "net.xml").inputs[0].shape == one
    with pytest.raises(UsageError, match=r"shape of 'x': .*net\.onnx has no such input \(it has image\)"):
        engine.build(path, tmp_path / "n.xml", BuildOptions(shapes={"x": shapes["image"]}))
    assert not (tmp_path / "n.xml").exists()


def test_nodes_are_timed_under_their_names(path: Path) -> None:
    times = get_engine("openvino").load(path).profile(images(1), runs=2)
    # a node that makes an output goes by that output's name
    assert {("map", "Convolution"), ("logits", "FullyConnected")} <= {(t.name, t.op_type) for t in times}
    assert "pool" in {time.name for time in times}
    assert all(time.ms >= 0 for time in times)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"nowhere\.onnx: no such file; check the path$"),
        ("cut", r"net\.onnx: openvino cannot load it: .*; export it again or check its files$"),
    ],
)
def test_unusable_files_are_model_errors(damage: str, message: str, path: Path, tmp_path: Path) -> None:
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ModelError, match=message):
        get_engine("openvino").load(tmp_path / "nowhere.onnx" if damage == "missing" else path)


def test_wrong_feeds_are_model_errors(path: Path) -> None:
    session = get_engine("openvino").load(path)
    for feeds in ({}, {"image": np.zeros((1, 4, 6, 6), np.float32)}, {"image": np.zeros((1, 3, 6, 6))}):
        with pytest.raises(ModelError, match=r"openvino cannot run it: .*; check that the model takes such"):
            session.run(feeds)


def test_options_of_other_engines_are_refused(path: Path, tmp_path: Path) -> None:
    engine = get_engine("openvino")
    with pytest.raises(UsageError, match=r"engine 'openvino': has no use for --compute-capability; leave it"):
        engine.build(path, tmp_path / "net.xml", BuildOptions(compute_capabilities=(86,)))
    with pytest.raises(UsageError, match=r"net\.engine: OpenVINO's files end in \.xml"):
        engine.build(path, tmp_path / "net.engine", BuildOptions())
    with pytest.raises(UsageError, match=r"engine 'openvino': has no CUDA graphs; leave --cuda-graph out"):
        engine.with_cuda_graph()


def test_an_engines_figures_are_never_anothers(tmp_path: Path) -> None:
    from otgraph.latency.kernel import Kernel  # noqa: PLC0415
    from otgraph.window import Window  # noqa: PLC0415

    kernel = Kernel.of(Window(8, 8, 1), (4,))
    tables = [
        LatencyTable(tmp_path / "t.sqlite", {**get_engine(name).describe(), "threads": threads})
        for name, threads in (("onnxruntime", 1), ("onnxruntime", 2), ("openvino", 1))
    ]
    for number, table in enumerate(tables):
        assert table.load(kernel) == {}
        table.store(kernel, {(8, 8): number + 1.0})
    assert [table.load(kernel)[8, 8] for table in tables] == [1, 2, 3]
    for name in ("onnxruntime", "openvino"):
        assert {"engine", "version", "device", "processor"} <= set(get_engine(name).describe())


def test_an_audit_may_hold_two_engines_against_each_other(path: Path) -> None:
    data = Data.from_arrays(images(6))
    report = audit(path, path, data, engine_b="openvino", repeats=1)
    assert report.environment.engine["engine"] == "onnxruntime"
    assert report.environment.engine_b is not None and report.environment.engine_b["engine"] == "openvino"
    assert [report.a.run["engine"], report.b.run["engine"]] == ["onnxruntime", "openvino"]
    assert report.fidelity.drift < 1e-6
