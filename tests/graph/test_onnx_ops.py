"""Each ONNX operator as a torch function, against ONNX Runtime on random inputs and attributes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.ops import table

RNG = np.random.default_rng(0)
FEW = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


def one_node(
    op: str, inputs: Sequence[Any], attributes: dict[str, Any], opset: int = 18, outputs: int = 1
) -> onnx.ModelProto:
    """A model of one node; an input of None is left out, and integer inputs are initializers."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)
    given = [(n, x) for n, x in zip(names, inputs, strict=True) if x is not None]
    stored = [onnx.numpy_helper.from_array(x, n) for n, x in given if n != "x0"]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in given[:1]
        ],
        [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model


def check(model: onnx.ModelProto, x: np.ndarray, rtol: float = 2e-6) -> Graph:
    """Torch and ONNX Runtime agree to rounding, nothing is opaque, and types are the same."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    wanted = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x0": x})
    graph = import_model(model, example=[torch.from_numpy(x)])
    assert not [node for node in graph.module.graph.nodes if node.op == "call_module"], graph.remarks
    for mine, theirs in zip(graph(torch.from_numpy(x)), wanted, strict=True):
        assert mine.numpy().dtype == theirs.dtype and tuple(mine.shape) == theirs.shape
        scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1.0) if theirs.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=rtol, atol=rtol * scale)
    return graph


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(RNG.standard_normal(shape)) + 0.1).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


UNARY = [
    "Abs",
    "Neg",
    "Sign",
    "Exp",
    "Floor",
    "Ceil",
    "Round",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Atan",
    "Sinh",
    "Asinh",
    "Relu",
    "LeakyRelu",
    "ThresholdedRelu",
    "Elu",
    "Celu",
    "Selu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Tanh",
    "Softplus",
    "Softsign",
    "Shrink",
    "Identity",
    "Softmax",
    "LogSoftmax",
    "Flatten",
    "Transpose",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LpNormalization",
    "Shape",
    "Size",
    "ArgMax",
    "ArgMin",
    "Dropout",
    "IsNaN",
    "IsInf",
    "NonZero",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "Trilu",
]


@pytest.mark.parametrize("op", UNARY)
def test_operators_of_one_input_with_their_defaults(op: str) -> None:
    x = f32(3, 4) if op == "Trilu" else f32(2, 3, 4, 5)
    check(one_node(op, [x], {}), x)


@pytest.mark.parametrize(
    "op", ["Sqrt", "Log", "Reciprocal", "ReduceLogSum", "Acosh", "Asin", "Acos", "Atanh", "Cosh"]
)
def test_operators_of_one_positive_input(op: str) -> None:
    x = positive(2, 3, 4)
    x = x / 10 if op in ("Asin", "Acos", "Atanh") else x + 1
    check(one_node(op, [x], {}), x)


@pytest.mark.parametrize(
    "op",
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "PRelu",
        "Greater",
        "Less",
        "Equal",
    ],
)
def test_operators_of_two_inputs_broadcast(op: str) -> None:
    x, other = positive(2, 3, 4), positive(3, 1)
    check(one_node(op, [x, other], {"fmod": 1} if op == "Mod" else {}), x)


@pytest.mark.parametrize(
    "op", ["Div", "Mod", "Add", "Mul", "Max", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"]
)
def test_integer_arithmetic_keeps_the_signs_of_onnx(op: str) -> None:
    x, other = RNG.integers(-9, 9, (4, 5)), np.array([[-3], [2], [5], [-1]])
    check(one_node(op, [x, other], {}), x)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_boolean_operators(op: str) -> None:
    x, other = RNG.random((3, 4)) > 0.5, RNG.random((3, 4)) > 0.5
    check(one_node(op, [x, other], {}), x)


CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("LeakyRelu", [f32(3, 4)], {"alpha": 0.3}, 18),
    ("HardSigmoid", [f32(3, 4)], {"alpha": 1 / 6, "beta": 0.4}, 18),
    ("Elu", [f32(3, 4)], {"alpha": 0.7}, 18),
    ("Selu", [f32(3, 4)], {"alpha": 1.1, "gamma": 2.0}, 18),
    ("Gelu", [f32(3, 4)], {}, 20),
    ("Gelu", [f32(3, 4)], {"approximate": "tanh"}, 20),
    ("Softmax", [f32(2, 3, 4)], {"axis": 1}, 11),
    ("Softmax", [f32(2, 3, 4)], {"axis": 1}, 13),
    ("LogSoftmax", [f32(2, 3, 1, 1)], {"axis": 1}, 9),
    ("Clip", [f32(3, 4), scalar(-0.3), scalar(0.4)], {}, 18),
    ("Clip", [f32(3, 4), None, scalar(0.4)], {}, 18),
    ("Clip", [f32(3, 4)], {"min": -0.1, "max": 0.2}, 9),
    ("Pow", [f32(3, 4), np.array(2, np.int64)], {}, 18),
    ("Cast", [f32(3, 4) * 5], {"to": 7}, 18),
    ("Cast", [f32(3, 4)], {"to": 9}, 18),
    ("CastLike", [f32(3, 4) * 9, ints(1)], {}, 18),
    ("IsInf", [np.array([1, np.inf, -np.inf, np.nan], np.float32)], {"detect_negative": 0}, 18),
    ("Reshape", [f32(2, 3, 4), ints(0, -1)], {}, 18),
    ("Reshape", [f32(2, 3, 4), ints(4, 3, 2)], {"allowzero": 1}, 18),
    ("Flatten", [f32(2, 3, 4)], {"axis": -1}, 18),
    ("Transpose", [f32(2, 3, 4)], {"perm": [1, 2, 0]}, 18),
    ("Squeeze", [f32(2, 1, 3, 1), ints(-1)], {}, 18),
    ("Squeeze", [f32(2, 1, 3, 1)], {"axes": [1]}, 11),
    ("Unsqueeze", [f32(2, 3), ints(0, -1)], {}, 18),
    ("Unsqueeze", [f32(2, 3)], {"axes": [1, 3]}, 11),
    ("Shape", [f32(2, 3, 4)], {"start": 1, "end": -1}, 18),
    ("Expand", [f32(3, 1), ints(2, 1, 4)], {}, 18),
    ("Tile", [f32(2, 3), ints(2, 1)], {}, 18),
    ("Concat", [f32(2, 3), f32(2, 5)], {"axis": -1}, 18),
    ("DepthToSpace", [f32(2, 8, 3, 2)], {"blocksize": 2}, 18),
    ("DepthToSpace", [f32(2, 8, 3, 2)], {"blocksize": 2, "mode": "CRD"}, 18),
    ("SpaceToDepth", [f32(2, 3, 4, 6)], {"blocksize": 2}, 18),
    ("Gather", [f32(4, 5), np.array(-1)], {"axis": 1}, 18),
    ("Gather", [f32(4, 5), ints(3, -1, 0)], {"axis": 1}, 18),
    ("Gather", [f32(4, 5), np.array([[0, 1], [-2, 2]])], {}, 18),
    ("GatherElements", [f32(3, 3), np.array([[0, -1, 2], [1, 1, 0]])], {"axis": 1}, 18),
    ("GatherND", [f32(3, 4, 2), np.array([[0, 1], [2, -1]])], {}, 18),
    ("ScatterElements", [f32(3, 3), np.array([[1, 0, 2]]), f32(1, 3)], {"axis": 0}, 18),
    ("ScatterElements", [f32(3, 3), np.array([[1, 1, 1]]), f32(1, 3)], {"axis": 1, "reduction": "add"}, 18),
    ("ScatterND", [f32(4, 3), np.array([[1], [3]]), f32(2, 3)], {}, 18),
    ("ScatterND", [f32(4, 3), np.array([[1], [1]]), f32(2, 3)], {"reduction": "add"}, 18),
    ("CumSum", [f32(3, 4), np.array(1)], {"exclusive": 1, "reverse": 1}, 18),
    ("CumSum", [f32(3, 4), np.array(0)], {}, 18),
    ("Trilu", [f32(4, 5), np.array(1)], {"upper": 0}, 18),
    ("OneHot", [np.array([[0, -1], [3, 9]]), np.array(4), np.array([0.5, 2.0], np.float32)], {"axis": 1}, 18),
    ("EyeLike", [f32(3, 4)], {"k": 1}, 18),
    ("Where", [RNG.random((3, 1)) > 0.5, f32(3, 4), f32(4)], {}, 18),
    ("ReduceMean", [f32(2, 3, 4), ints(0, -1)], {"keepdims": 0}, 18),
    ("ReduceMean", [f32(2, 3, 4)], {"keepdims": 0, "axes": [1]}, 13),
    ("ReduceSum", [f32(2, 3, 4), ints()], {"noop_with_empty_axes": 1}, 18),
    ("ReduceSum", [RNG.integers(0, 9, (2, 3)).astype(np.int32), ints(1)], {}, 18),
    ("ArgMax", [np.array([[1, 3, 3], [2, 2, 0]], np.float32)], {"axis": 1, "select_last_index": 1}, 18),
    ("MatMul", [f32(2, 3, 4), f32(4, 5)], {}, 18),
    ("Gemm", [f32(3, 4), f32(5, 4), f32(5)], {"transB": 1}, 18),
    ("Gemm", [f32(4, 3), f32(4, 5), f32(3, 1)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, 18),
    ("Einsum", [f32(2, 3, 4), f32(2, 4, 5)], {"equation": "b i k, b k j -> b i j"}, 18),
    ("BatchNormalization", [f32(2, 3, 4), f32(3), f32(3), f32(3), positive(3)], {"epsilon": 1e-3}, 18),
    ("InstanceNormalization", [f32(2, 3, 4, 5), f32(3), f32(3)], {}, 18),
    ("LayerNormalization", [f32(2, 3, 4), f32(4), f32(4)], {}, 18),
    ("LayerNormalization", [f32(2, 3, 4), f32(3, 4)], {"axis": 1, "epsilon": 1e-3}, 18),
    ("LayerNormalization", [f32(2, 3, 4), f32(1)], {"axis": -2}, 18),
    ("GroupNormalization", [f32(2, 6, 4), f32(6), f32(6)], {"num_groups": 3}, 21),
    ("LpNormalization", [f32(3, 4)], {"p": 1, "axis": 0}, 18),
    ("LRN", [f32(2, 7, 3, 3)], {"size": 5, "alpha": 0.01, "bias": 1.5}, 18),
    ("Upsample", [f32(1, 2, 3, 3), np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 9),
    ("Resize", [f32(1, 2, 3, 3), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 10),
    ("Resize", [f32(1, 2, 5, 7), np.array([1, 1, 0.6, 0.4], np.float32)], {"mode": "nearest"}, 10),
    ("Resize", [f32(1, 2, 5, 4), None, None, ints(1, 2, 7, 9)], {"mode": "cubic"}, 18),
    ("QuantizeLinear", [f32(3, 4), scalar(0.02), np.array(-7, np.int8)], {}, 10),
    ("QuantizeLinear", [f32(3, 4), scalar(0.25)], {}, 13),
    ("QuantizeLinear", [f32(3, 4) * 9, positive(4), np.array([0, 9, 128, 255], np.uint8)], {"axis": -1}, 21),
    ("QuantizeLinear", [f32(3, 4), positive(3) / 9, np.zeros(3, np.int16)], {"axis": 0}, 21),
    ("QuantizeLinear", [f32(2, 6), positive(2, 2) / 9, np.zeros((2, 2), np.int8)], {"block_size": 3}, 21),
    ("QuantizeLinear", [(np.arange(-9, 9) / 2).astype(np.float32), scalar(1.0)], {"output_dtype": 3}, 21),
    ("DequantizeLinear", [RNG.integers(-128, 128, (3, 4), np.int8), scalar(0.02)], {}, 10),
    (
        "DequantizeLinear",
        [RNG.integers(0, 256, (3, 4), np.uint8), positive(4), np.array([0, 9, 128, 255], np.uint8)],
        {"axis": 1},
        13,
    ),
    (
        "DequantizeLinear",
        [RNG.integers(-(2**31), 2**31, (3, 4)).astype(np.int32), positive(3)],
        {"axis": 0},
        19,
    ),
    (
        "DequantizeLinear",
        [RNG.integers(0, 9, (2, 6)).astype(np.uint8), positive(2, 2)],
        {"block_size": 3},
        21,
    ),
    ("ConvTranspose", [f32(1, 4, 5, 5), f32(4, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1]}, 18),
    ("ConvTranspose", [f32(1, 4, 5, 5), f32(4, 2, 2, 2), f32(2)], {"strides": [2, 2]}, 18),
]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_operator(op: str, inputs: list[Any], attributes: dict[str, Any], opset: int) -> None:
    check(one_node(op, inputs, attributes, opset), inputs[0])


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_split_knows_its_parts_in_every_opset(opset: int) -> None:
    x = f32(2, 7)
    even = one_node("Split", [f32(2, 6)], {"axis": 1} | ({"num_outputs": 3} if opset == 18 else {}), opset, 3)
    check(even, f32(2, 6))
    sizes = [2, 4, 1]
    uneven = one_node("Split", [x], {"axis": 1, "split": sizes}, opset, 3)
    if opset >= 13:
        uneven = one_node("Split", [x, ints(*sizes)], {"axis": 1}, opset, 3)
    check(uneven, x)


def test_topk_orders_equal_values_by_their_index() -> None:
    x = np.array([[3, 1, 3, 2, 3, 0]], np.float32)
    for largest in (0, 1):
        check(one_node("TopK", [x, ints(4)], {"largest": largest}, 18, 2), x)


@given(st.data())
@FEW
def test_convolutions(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3))
    group, per = data.draw(st.sampled_from([(1, 3), (2, 2), (4, 1)]))
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    attributes = _window(data, n) | {"group": group}
    x, w = f32(2, group * per, *data.draw(st.lists(st.integers(6, 9), min_size=n, max_size=n))), None
    w = f32(group * 2, per, *kernel)
    inputs = [x, w, f32(group * 2)] if data.draw(st.booleans()) else [x, w]
    check(one_node("Conv", inputs, attributes), x, 5e-6)


@given(st.data())
@FEW
def test_transposed_convolutions(data: st.DataObject) -> None:
    group = data.draw(st.sampled_from([1, 2]))
    attributes: dict[str, Any] = {
        "group": group,
        "strides": data.draw(st.sampled_from([[1, 1], [2, 2], [2, 3]])),
    }
    attributes["pads"] = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    attributes["dilations"] = data.draw(st.sampled_from([[1, 1], [2, 1]]))
    x, w = f32(1, 4, 5, 4), f32(4, 3, 3, 2)
    check(one_node("ConvTranspose", [x, w, f32(3 * group)], attributes), x, 5e-6)


@given(st.data())
@FEW
def test_pooling(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3))
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = data.draw(st.lists(st.integers(2, 3), min_size=n, max_size=n))
    attributes = _window(data, n) | {"kernel_shape": kernel}
    if op == "AveragePool":
        attributes.pop("dilations")
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    else:
        attributes["ceil_mode"] = data.draw(st.integers(0, 1)) if "auto_pad" not in attributes else 0
    x = f32(1, 2, *data.draw(st.lists(st.integers(6, 9), min_size=n, max_size=n)))
    check(one_node(op, [x], attributes, 19), x)


def _window(data: st.DataObject, n: int) -> dict[str, Any]:
    sides = st.lists(st.integers(1, 2), min_size=n, max_size=n)
    attributes: dict[str, Any] = {"strides": data.draw(sides), "dilations": data.draw(sides)}
    padding = data.draw(st.sampled_from(["none", "pads", "even", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding.isupper():
        attributes |= {"auto_pad": padding, "dilations": [1] * n}
    elif padding == "pads":
        attributes["pads"] = data.draw(st.lists(st.integers(0, 1), min_size=2 * n, max_size=2 * n))
    elif padding == "even":
        attributes["pads"] = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)) * 2
    return attributes


@given(st.data())
@FEW
def test_slices(data: st.DataObject) -> None:
    x = f32(5, 6, 7)
    axes = data.draw(st.lists(st.sampled_from([0, 1, -1]), min_size=1, max_size=3, unique=True))
    edge = st.sampled_from([-(2**31), -100, -3, -1, 0, 1, 2, 4, 6, 100, 2**63 - 1])
    starts, ends = ([data.draw(edge) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    check(one_node("Slice", [x, ints(*starts), ints(*ends), ints(*axes), ints(*steps)], {}), x)


@given(st.data())
@FEW
def test_pads(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    lowest = -1 if mode == "constant" else 0
    amounts = data.draw(st.lists(st.integers(lowest, 2), min_size=6, max_size=6))
    x = f32(4, 5, 3)
    inputs = [x, ints(*amounts)] + ([scalar(1.5)] if mode == "constant" and data.draw(st.booleans()) else [])
    check(one_node("Pad", inputs, {"mode": mode}, 19), x)


@given(st.data())
@FEW
def test_resizes(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["nearest", "linear"]))
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes = {"mode": mode, "coordinate_transformation_mode": data.draw(st.sampled_from(coordinates))}
    if mode == "nearest":
        rounding = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
        attributes["nearest_mode"] = data.draw(st.sampled_from(rounding))
    x = f32(1, 2, data.draw(st.integers(3, 6)), data.draw(st.integers(3, 6)))
    if data.draw(st.booleans()):
        scales = [1, 1, *(data.draw(st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.0, 3.0])) for _ in range(2))]
        assume(attributes["coordinate_transformation_mode"] != "align_corners" or min(scales) >= 1)
        inputs = [x, None, np.array(scales, np.float32)]
    else:
        inputs = [x, None, None, ints(1, 2, data.draw(st.integers(2, 12)), data.draw(st.integers(2, 12)))]
    check(one_node("Resize", inputs, attributes), x, 1e-5)


def test_every_function_takes_only_attributes_that_some_version_of_the_operator_has() -> None:
    made_up = {("Split", "num_outputs"), ("ConstantOfShape", "dtype")}
    for (domain, op_type), versions in table.TABLE.items():
        known = {
            name
            for s in onnx.defs.get_all_schemas_with_history()
            if s.name == op_type
            for name in s.attributes
        }
        for op in versions:
            defaults = getattr(op.function, "__kwdefaults__", None) or {}
            unknown = {n for n in defaults if n not in known and (op_type, n) not in made_up}
            assert not unknown, (domain, op_type, unknown)


def test_table_has_one_function_for_each_opset() -> None:
    for versions in table.TABLE.values():
        spans = sorted((op.since, op.until) for op in versions)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(spans))


def _wrong_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + 1e-4


def _wrong_slice(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x[:1]


@pytest.mark.parametrize(("op", "wrong"), [("Relu", _wrong_relu), ("Flatten", _wrong_slice)])
def test_a_wrong_function_is_caught(
    op: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.TABLE, ("", op), (table.Op(op, wrong),))
    x = f32(3, 4)
    with pytest.raises(AssertionError):
        check(one_node(op, [x], {}), x)


def test_a_node_that_nothing_can_run_is_a_clear_error() -> None:
    x = f32(3, 4)
    with pytest.raises(
        ModelError, match=r"node 'node': MatMul has no torch form and ONNX Runtime cannot run it"
    ):
        import_model(one_node("MatMul", [x, f32(3, 4)], {}), example=[torch.from_numpy(x)])
