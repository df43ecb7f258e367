"""Files that contradict themselves, or ask for more than there is: refused when they are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from otgraph.errors import ModelError
from otgraph.graph.onnx.bounded import Bounded, TooLarge
from otgraph.graph.onnx.importer import import_model


def model(*more: onnx.NodeProto, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """x (n, 4) → y = x @ w, and whatever else."""
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])  # noqa: E731
    stored = {"w": np.ones((4, 4), np.float32), **weights}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product"), *more],
        "small",
        [value("x")],
        [value("y")],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def weight(found: onnx.ModelProto) -> TensorProto:
    return found.graph.initializer[0]


Change = Callable[[onnx.ModelProto], object]
WRONG: dict[str, tuple[Change, str]] = {
    "short": (
        lambda m: setattr(weight(m), "raw_data", bytes(10)),
        r"tensor 'w': holds 10 bytes of data where its type and dims \[4, 4\] mean 64",
    ),
    "long": (lambda m: setattr(weight(m), "raw_data", bytes(68)), r"tensor 'w': holds 68 bytes"),
    "fields": (
        lambda m: (weight(m).ClearField("raw_data"), weight(m).float_data.extend([1.0] * 3)),
        r"tensor 'w': holds 3 numbers where its dims \[4, 4\] mean 16",
    ),
    "negative": (lambda m: weight(m).dims.__setitem__(0, -4), r"its dims \[-4, 4\] hold a negative size"),
    "absurd": (
        lambda m: weight(m).dims.__setitem__(0, 2**51),
        r"'w': its dims \[\d+, 4\] are larger than any",
    ),
    "empty and absurd": (
        lambda m: (weight(m).dims.extend([0, 2**62]), setattr(weight(m), "raw_data", b"")),
        r"are larger than any file",
    ),
    "type": (lambda m: setattr(weight(m), "data_type", 99), r"tensor 'w': its type 99 is none of ONNX's"),
    "segment": (lambda m: weight(m).segment.SetInParent(), r"'w': is stored in segments"),
    "outside": (
        lambda m: (
            setattr(weight(m), "data_location", TensorProto.EXTERNAL),
            weight(m).external_data.add(key="location", value="a" * 300),
        ),
        r"tensor 'w': its external data path 'a+' points outside",
    ),
    "opset": (
        lambda m: setattr(m.opset_import[0], "version", 99),
        r"has opset 99 of domain 'ai.onnx', known are 1 to \d+; export the model for an older one",
    ),
    "two opsets": (
        lambda m: m.opset_import.add(domain="ai.onnx", version=9),
        r"opset of domain 'ai.onnx' twice",
    ),
    "IR": (lambda m: setattr(m, "ir_version", 999), r"has IR version 999, known are 1 to \d+"),
    "made twice": (
        lambda m: m.graph.node.append(helper.make_node("Abs", ["x"], ["y"])),
        r"value 'y' is made by node 'product' \(MatMul\) and made by node 1 \(Abs\)",
    ),
    "made and stored": (
        lambda m: m.graph.node.append(helper.make_node("Abs", ["x"], ["w"])),
        r"value 'w' is stored and made by node 1",
    ),
    "stored twice": (lambda m: m.graph.initializer.append(weight(m)), r"initializer 'w' is there twice"),
    "no operator": (lambda m: m.graph.node[0].ClearField("op_type"), r"node 'product' has no operator"),
    "makes nothing": (
        lambda m: m.graph.node.add(op_type="Abs", input=["x"]),
        r"node 1 \(Abs\): makes nothing",
    ),
    "no shape": (
        lambda m: m.graph.node.append(helper.make_node("ConstantOfShape", [], ["c"])),
        r"node 1 \(ConstantOfShape\): has 0 inputs, it needs 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_contradicts_itself_is_refused(case: str) -> None:
    change, text = WRONG[case]
    found = model()
    change(found)
    with pytest.raises(ModelError, match=text) as error:
        import_model(found)
    assert str(error.value).startswith("small: ")


@pytest.mark.parametrize("field", ["op_type", "name", "output"])
def test_a_name_that_is_no_text_is_refused(field: str) -> None:
    found = model(helper.make_node("QZQZ", ["y"], ["QZQZ"], name="QZQZ"))
    node = found.graph.node[1]
    for other in {"op_type", "name", "output"} - {field}:
        node.output[:] = ["plain"] if other == "output" else node.output
        if other != "output":
            setattr(node, other, "Plain")
    damaged = onnx.ModelProto.FromString(found.SerializeToString().replace(b"QZQZ", b"\xff\xfe\x80\xc3"))
    with pytest.raises(ModelError, match=rf"small: the {field} of a node is b'.*', which is not UTF-8"):
        import_model(damaged)


def test_an_input_that_nothing_could_hold_is_refused() -> None:
    found = model()
    found.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**51
    with pytest.raises(ModelError, match=r"small: input 'x' of shape \[2, \d+\] would be .* TB; export"):
        import_model(found)


@pytest.mark.parametrize("size", [2**29, 2**60])
def test_a_stored_shape_that_fills_memory_is_refused(size: int) -> None:
    found = model(helper.make_node("ConstantOfShape", ["s"], ["c"], name="fill"), s=np.array([size]))
    with pytest.raises(ModelError, match=r"node 'fill': makes a value of .* \(its shape is \[\d+\]\)"):
        import_model(found)


def test_a_value_that_fills_memory_is_refused_before_it_is_made() -> None:
    nodes = [helper.make_node("Tile", ["w", "s"], ["c"], name="tile")]
    with pytest.raises(
        ModelError, match=r"tile: makes a value of 70\.4 TB, which is too large to go on with"
    ):
        import_model(model(*nodes, s=np.array([2**20, 2**20])), example=[torch.ones(2, 4)])


def test_a_large_constant_is_said() -> None:
    nodes = [helper.make_node("Tile", ["w", "s"], ["c"], name="tile")]
    found = import_model(model(*nodes, s=np.array([2**11, 2**11])))
    assert [r.where for r in found.remarks if "computes a constant of 268 MB" in r.message] == ["tile"]
    small = import_model(model(*nodes, s=np.array([2, 2])))
    assert not [r for r in small.remarks if "constant" in r.message]


def test_the_bound_lets_views_and_small_values_through() -> None:
    with Bounded(2**20):
        assert torch.ones(2**10, 2**8).reshape(-1).sum() == 2**18
        with pytest.raises(TooLarge):
            torch.zeros(2**10, 2**11)
        with pytest.raises(TooLarge):
            torch.nn.functional.pad(torch.ones(1, 1, 2, 2), (2**10, 2**10, 2**10, 2**10))


def test_sparse_tensors_are_held_against_their_dims() -> None:
    found = model()
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("p", TensorProto.INT64, [2], [0, 9])
    found.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    with pytest.raises(ModelError, match=r"sparse tensor 's': an index lies outside its dims \[4\]"):
        import_model(found)
    found.graph.sparse_initializer[0].dims[0] = 2**40
    with pytest.raises(ModelError, match=r"sparse tensor 's': would be 4\.4 TB as a dense tensor"):
        import_model(found)


def test_an_input_that_is_left_out_is_named() -> None:
    left_out = helper.make_node("LayerNormalization", ["", "w"], ["more"], name="norm")
    with pytest.raises(
        ModelError, match=r"node 'norm': LayerNormalization has no torch form and ONNX Runtime cannot"
    ):
        import_model(model(left_out))
