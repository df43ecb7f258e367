"""MACs, parameters, depth and bytes of models whose figures are known by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from otgraph.audit.shapes import infer, read_model
from otgraph.audit.structure import structure
from otgraph.errors import ModelError


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, np.ndarray],
    output: str = "y",
    **more: object,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)
    onnx.save(model, path)
    return path


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


CASES = {
    "conv": (
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)],
        (1, 4, 8, 8),
        {"w": zeros(6, 2, 3, 3)},
        6 * 4 * 4 * 2 * 9,
    ),
    "conv-transpose": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        (1, 4, 5, 5),
        {"w": zeros(4, 3, 2, 2)},
        4 * 25 * 3 * 4,
    ),
    "gemm": ([helper.make_node("Gemm", ["x", "w"], ["y"])], (2, 5), {"w": zeros(5, 7)}, 2 * 5 * 7),
    "gemm-transposed": (
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)],
        (5, 2),
        {"w": zeros(7, 5)},
        2 * 5 * 7,
    ),
    "matmul-batched": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        (3, 4, 5),
        {"w": zeros(5, 6)},
        3 * 4 * 5 * 6,
    ),
    "matmul-vectors": ([helper.make_node("MatMul", ["x", "w"], ["y"])], (5,), {"w": zeros(5)}, 5),
    "einsum": (
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij, kj -> bik")],
        (2, 3, 4),
        {"w": zeros(5, 4)},
        2 * 3 * 4 * 5,
    ),
    "element-wise": ([helper.make_node("Relu", ["x"], ["y"])], (2, 5), {}, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_macs_are_those_of_the_definition(case: str, tmp_path: Path) -> None:
    nodes, shape, constants, expected = CASES[case]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["a", "b", "c", "d"][: len(shape)]}, constants)
    found = structure(path, {"x": zeros(*shape)})
    assert found.macs == expected
    assert found.not_counted == {}
    assert found.parameters == sum(value.size for value in constants.values())
    assert found.bytes == path.stat().st_size


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Einsum", ["x", "x", "x"], ["e"], equation="ij,ij,ij->ij"),
        helper.make_node("Gelu", ["e"], ["y"], domain="com.microsoft"),
    ]
    found = structure(save(tmp_path / "m.onnx", nodes, {"x": [2, 2]}, {}), {"x": zeros(2, 2)})
    assert found.macs == 0
    assert found.not_counted == {"Einsum": 1, "Gelu": 1}


def test_shapes_that_inference_cannot_find_come_from_running_the_model(tmp_path: Path) -> None:
    """NonZero's output depends on the data, so the product's size is known only by running it."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["rows"], ["columns"]),
        helper.make_node("MatMul", ["columns", "w"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [3, 3]}, {"w": zeros(2, 4)})
    feeds = {"x": np.eye(3, dtype=np.float32)}
    assert "y" not in infer(read_model(path, with_external_data=False), feeds)
    found = structure(path, feeds)
    assert found.macs == 3 * 2 * 4
    assert found.not_counted == {}


def test_sizes_of_another_batch_written_in_the_file_do_not_mislead(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        {"x": ["batch", 3]},
        {"w": zeros(3, 4)},
    )
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [50, 3]))
    onnx.save(model, path)
    assert structure(path, {"x": zeros(1, 3)}).macs == 12


def test_depth_is_the_longest_chain_and_compute_depth_counts_products_only(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Conv", ["x", "w"], ["short"]),
        helper.make_node("Add", ["c", "short"], ["y"]),
    ]
    found = structure(
        save(tmp_path / "m.onnx", nodes, {"x": [1, 2, 4, 4]}, {"w": zeros(2, 2, 1, 1)}),
        {"x": zeros(1, 2, 4, 4)},
    )
    assert (found.depth, found.compute_depth, found.nodes) == (4, 2, 5)
    assert found.ops == {"Add": 1, "Conv": 3, "Relu": 1}


def test_weights_in_constant_nodes_are_parameters_and_index_tensors_are_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(zeros(3, 4))),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, 2]))),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    found = structure(save(tmp_path / "m.onnx", nodes, {"x": [2, 3]}, {}), {"x": zeros(2, 3)})
    assert found.parameters == 12
    assert found.nodes == 2
    assert found.macs == 24


def test_local_functions_are_looked_into(tmp_path: Path) -> None:
    function = helper.make_function(
        "local",
        "Twice",
        ["p", "q"],
        ["r"],
        [helper.make_node("MatMul", ["p", "q"], ["r"])],
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="local")],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(zeros(3, 4), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9), path)
    found = structure(path, {"x": zeros(2, 3)})
    assert (found.macs, found.ops) == (24, {"MatMul": 1})


def test_external_data_counts_as_size_on_disk(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": [1, 64]},
        {"w": zeros(64, 64)},
    )
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    found = structure(path, {"x": zeros(1, 64)})
    assert found.bytes == path.stat().st_size + (tmp_path / "m.bin").stat().st_size
    assert found.parameters == 64 * 64


def test_no_onnx_file_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff\xff not a model")
    with pytest.raises(ModelError, match=r"m\.onnx: not a readable ONNX file"):
        structure(path, {})
