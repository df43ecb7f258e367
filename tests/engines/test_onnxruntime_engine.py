"""The ONNX Runtime engine against models made by hand."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from otgraph.engines import get_engine
from otgraph.engines.catalog import ENGINES, Entry
from otgraph.engines.onnxruntime import OnnxRuntime, session_options
from otgraph.errors import EngineMissing, ModelError, UsageError


def linear_model() -> onnx.ModelProto:
    """y = x · W with W = [[1, 2], [3, 4], [5, 6]], and z = relu(y)."""
    weight = numpy_helper.from_array(np.array([[1, 2], [3, 4], [5, 6]], np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2]),
        ],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_runs_a_file_and_bytes_alike(tmp_path: Path) -> None:
    path = tmp_path / "linear.onnx"
    onnx.save(linear_model(), path)
    feeds = {"x": np.array([[1, -1, 0], [0, 0, -1]], np.float32)}
    for model in (path, path.read_bytes()):
        outputs = OnnxRuntime().load(model).run(feeds)
        np.testing.assert_array_equal(outputs["y"], [[-2, -2], [-5, -6]])
        np.testing.assert_array_equal(outputs["z"], np.zeros((2, 2)))


def test_specs_say_names_dtypes_and_dynamic_axes() -> None:
    session = OnnxRuntime().load(linear_model().SerializeToString())
    assert [str(spec) for spec in session.inputs] == ["x: float32(batch, 3)"]
    assert [str(spec) for spec in session.outputs] == ["y: float32(batch, 2)", "z: float32(batch, 2)"]


def test_profile_names_the_nodes_that_ran() -> None:
    session = OnnxRuntime().load(linear_model().SerializeToString())
    times = session.profile({"x": np.ones((4, 3), np.float32)}, runs=2)
    assert [time.op_type for time in times] == ["MatMul", "Relu"]
    assert all(time.ms >= 0 for time in times)


def test_options_are_those_of_the_protocol() -> None:
    options = session_options(2)
    assert options.intra_op_num_threads == 2
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such file; check the path$"):
        OnnxRuntime().load(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match=r": is a folder; give an \.onnx file$"):
        OnnxRuntime().load(tmp_path)


def test_truncated_file_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(linear_model().SerializeToString()[:60])
    with pytest.raises(ModelError, match=r"half\.onnx: onnxruntime cannot load it: Load model") as caught:
        OnnxRuntime().load(path)
    assert str(caught.value).endswith("; export it again or check its files")
    assert "\n" not in str(caught.value)


def test_missing_external_data_is_a_model_error(tmp_path: Path) -> None:
    model = linear_model()
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"split\.onnx: onnxruntime cannot load it: "):
        OnnxRuntime().load(path)


def test_external_data_outside_the_models_folder_is_a_model_error(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = folder / "split.onnx"
    onnx.save(linear_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    OnnxRuntime().load(path)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"split\.onnx: onnxruntime cannot load it: "):
        OnnxRuntime().load(path)


def test_wrong_feeds_are_a_model_error() -> None:
    session = OnnxRuntime().load(linear_model().SerializeToString())
    with pytest.raises(
        ModelError,
        match=r"model in memory: onnxruntime cannot run it: .*; check that the model takes such inputs$",
    ):
        session.run({"x": np.ones((1, 4), np.float32)})
    with pytest.raises(
        ModelError,
        match=r"model in memory: onnxruntime cannot run it: .*; check that the model takes such inputs$",
    ):
        session.profile({"x": np.ones((1, 4), np.float32)}, runs=1)


def test_sequence_inputs_are_refused() -> None:
    node = helper.make_node("SequenceAt", ["s", "i"], ["y"])
    graph = helper.make_graph(
        [node],
        "sequence",
        [
            helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(
        ModelError, match=r"s: has type seq\(tensor\(float\)\), which is not supported; export it"
    ):
        OnnxRuntime().load(model.SerializeToString())


def test_every_catalog_name_is_the_engines_own() -> None:
    found = 0
    for name, entry in ENGINES.items():
        module, _, attribute = entry.target.partition(":")
        try:
            engine = getattr(importlib.import_module(module), attribute)()
        except ImportError:
            continue
        found += 1
        assert engine.name == name
    assert found >= 4


def test_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"engine 'warp': unknown; choose one of: onnxruntime"):
        get_engine("warp")


def test_missing_package_is_engine_missing_and_names_what_to_install() -> None:
    table = {"warp": Entry("otgraph.engines.warp:Warp", "warp cuda-bindings")}
    with pytest.raises(
        EngineMissing, match=r"engine 'warp': not available here .*pip install warp cuda-bindings"
    ) as caught:
        get_engine("warp", table)
    assert caught.value.exit_code == 3


def test_missing_device_is_engine_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntime, "unavailable", lambda self: "no CPU")
    with pytest.raises(EngineMissing, match=r"engine 'onnxruntime': not available here \(no CPU\)"):
        get_engine("onnxruntime")


def imports_torch(statement: str) -> bool:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode != 0


def test_engines_latency_and_audit_do_not_import_torch() -> None:
    packages = "otgraph.data_check, otgraph.engines.onnxruntime, otgraph.latency, otgraph.audit"
    assert not imports_torch(f"import {packages}")
    assert imports_torch("import types; sys.modules['torch'] = types.ModuleType('torch')")
