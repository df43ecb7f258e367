"""Files that cannot be used: each has its own message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from otgraph.errors import ModelError
from otgraph.graph.onnx.importer import import_model, load_onnx


def small_model() -> onnx.ModelProto:
    weight = onnx.numpy_helper.from_array(np.ones((4, 600), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 600])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_outside(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(small_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = location
    path.write_bytes(model.SerializeToString())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: no such file; check the path"):
        load_onnx(tmp_path / "none.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder; give an \.onnx file"):
        load_onnx(tmp_path)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.999])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    data = small_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"cut\.onnx: is not an ONNX model"):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"this is a text file, not a model\n" * 20, bytes(range(256)) * 4])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"garbage\.onnx: is not an ONNX model"):
        load_onnx(path)


def test_external_data_is_read(tmp_path: Path) -> None:
    graph = load_onnx(save_outside(tmp_path))
    assert graph.tensor("w").shape == (4, 600) and float(graph.tensor("w").sum()) == 2400


def test_external_data_missing(tmp_path: Path) -> None:
    path = save_outside(tmp_path)
    (tmp_path / "weights.bin").unlink()
    text = (
        r"model\.onnx: tensor 'w': its external data file 'weights\.bin' is missing; put it next to the model"
    )
    with pytest.raises(ModelError, match=text):
        load_onnx(path)


def test_external_data_cut_short(tmp_path: Path) -> None:
    path = save_outside(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    with pytest.raises(
        ModelError,
        match=r"its external data file 'weights\.bin' is cut short \(it has 100 bytes, 9600 are needed\)",
    ):
        load_onnx(path)


@pytest.mark.parametrize("how", ["../weights.bin", "absolute", "sub/../../weights.bin", "link"])
def test_external_data_outside_the_folder(tmp_path: Path, how: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = save_outside(inner)
    (inner / "weights.bin").rename(tmp_path / "weights.bin")
    location = str(tmp_path / "weights.bin") if how == "absolute" else how
    if how == "link":
        (inner / "link").symlink_to(tmp_path / "weights.bin")
    relocate(path, location)
    with pytest.raises(ModelError, match=r"its external data path '.*' points outside the model's folder"):
        load_onnx(path)


def test_external_data_of_an_attribute_is_checked_too(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0]))
    tensor = model.graph.node[1].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"external data path '/etc/hostname' points outside"):
        load_onnx(path)


def test_unsorted_nodes() -> None:
    model = small_model()
    model.graph.node[0].input[0] = "later"
    model.graph.node.append(helper.make_node("Relu", ["x"], ["later"]))
    with pytest.raises(
        ModelError, match=r"small: y reads 'later', which nothing before it makes; sort the graph"
    ):
        import_model(model)


def test_input_that_is_no_tensor_of_numbers() -> None:
    model = small_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(
        ModelError, match=r"small: input 'x' is no tensor of numbers; remove it from the model"
    ):
        import_model(model)


def test_input_without_a_rank() -> None:
    model = small_model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(
        ModelError, match=r"small: input 'x' has no shape, not even a rank; export it with one"
    ):
        import_model(model)


def test_no_input_size_that_runs() -> None:
    model = small_model()
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for name in ("n", "k"):
        model.graph.input[0].type.tensor_type.shape.dim.add(dim_param=name)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((7, 600), np.float32), "w"))
    text = r"small: does not run with any size tried for its free axes \(k, n\); pass example inputs"
    with pytest.raises(ModelError, match=text):
        import_model(model)
    assert import_model(model, example=[torch.ones(3, 7)]).example[0].shape == (3, 7)
