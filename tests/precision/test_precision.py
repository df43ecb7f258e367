"""float16 and int8 as steps on the ONNX: valid, sorted, near the original, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from otgraph import sample
from otgraph.data import Data
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import DataError, ModelError, UsageError
from otgraph.precision.convert import check_precision, convert_file
from otgraph.precision.float16 import to_float16
from otgraph.precision.int8 import to_int8
from otgraph.sample import calibration_path, model_path

# what a Swin transformer's window masks are: ScatterND into float data, with shape arithmetic around it
SCATTER = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4] x) => (float[N,4] y) <int64[1,1] at = {1}, int64[1] one = {1}> {
    [shape] s = Shape (x)
    [last] n = Gather (s, one)
    [zeros] z = ConstantOfShape (n)
    [update] u = Gather (v, one)
    [mask] m = ScatterND (z, at, u)
    [product] p = MatMul (x, w)
    [sum] q = Add (p, m)
    [norm] l = LayerNormalization (q, v, v)
    y = Relu (l)
}"""


def scatter_model() -> onnx.ModelProto:
    model, draw = parser.parse_model(SCATTER), np.random.default_rng(0)
    for name, shape in {"v": (4,), "w": (4, 4)}.items():
        values = draw.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    return next(iter(OnnxRuntime().load(model.SerializeToString()).run(feeds).values()))


def is_sorted(model: onnx.ModelProto) -> bool:
    known = {"", *(value.name for value in model.graph.input), *(t.name for t in model.graph.initializer)}
    for node in model.graph.node:
        if not set(node.input) <= known:
            return False
        known |= set(node.output)
    return True


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def test_scatter_and_shapes_survive_float16() -> None:
    model = scatter_model()
    before = model.SerializeToString()
    half, said = to_float16(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    assert is_sorted(half)
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types["w"] == TensorProto.FLOAT16
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    found = run(half, x=x)
    assert found.dtype == np.float32 and 0 < distance(run(model, x=x), found) < 5e-3
    assert [remark.where for remark in said if remark.kind == "missed"] == ["LayerNormalization", "net"]
    assert "may overflow; give --calib DATA" in said[-1].message


def test_the_check_of_the_order_can_fail() -> None:
    model = scatter_model()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert not is_sorted(model)


def test_a_weight_that_float16_cannot_hold_stays() -> None:
    model = scatter_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.CopyFrom(numpy_helper.from_array(np.full((4, 4), 1e5, np.float32), "w"))
    half, said = to_float16(model)
    assert ("product", "stays in float32: its weight w holds more than 65504") in [
        (remark.where, remark.message) for remark in said
    ]
    x = np.ones((1, 4), np.float32)
    assert np.isfinite(run(half, x=x)).all()


def test_float16_of_a_float16_or_an_integer_model_is_itself() -> None:
    half, _ = to_float16(scatter_model())
    again, said = to_float16(half)
    assert again is half and "is in float16 already" in said[0].message
    whole = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (int64[N] x) => (int64[N] y) { y = Abs (x) }'
    )
    same, said = to_float16(whole)
    assert same is whole and "has no float32 weights" in said[0].message


def digits(count: int) -> Data:
    with np.load(calibration_path()) as held:
        return Data.from_arrays({"image": held["image"][:count]})


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_int8_keeps_the_classes_of_the_sample(symmetric: bool) -> None:
    model = onnx.load(model_path())
    small, said = to_int8(model, digits(64), symmetric=symmetric)
    onnx.checker.check_model(small)
    assert is_sorted(small)
    with np.load(sample.test_path()) as held:
        x = held["image"][:500]
    expected, found = run(model, image=x), run(small, image=x)
    assert (expected.argmax(1) == found.argmax(1)).mean() > 0.98
    assert said[0].metrics == {"products": 22, "samples": 64}
    stored = {tensor.name: tensor for tensor in small.graph.initializer}
    zeros = [
        numpy_helper.to_array(stored[n.input[2]]) for n in small.graph.node if n.op_type == "QuantizeLinear"
    ]
    assert all((zero == 0).all() for zero in zeros) == symmetric
    kinds = {zero.dtype for zero in zeros}
    assert kinds == ({np.dtype(np.int8)} if symmetric else {np.dtype(np.uint8)})


def test_int8_wants_data_that_fits() -> None:
    model = onnx.load(model_path())
    with pytest.raises(UsageError, match=r"int8: needs inputs to find the ranges of activations on; give"):
        to_int8(model, None)
    with pytest.raises(DataError, match=r"no array for input 'image' \(has: picture\); rename it"):
        to_int8(model, Data.from_arrays({"picture": np.zeros((2, 1, 28, 28), np.float32)}))


def test_what_is_quantized_is_not_converted_again() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N] x) => (float[N] y)
    <float s = {0.1}, int8 z = {0}> { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""
    model = parser.parse_model(text)
    for convert in (to_float16, lambda each: to_int8(each, digits(2))):
        with pytest.raises(ModelError, match=r"net: is quantized already; convert the model that it was"):
            convert(model)


def test_files_are_converted_as_the_engine_wants_it(tmp_path: Path) -> None:
    onnx.save(scatter_model(), tmp_path / "net.onnx")
    place = tmp_path / "out.onnx"
    assert convert_file(tmp_path / "net.onnx", place, "fp32", None, "openvino") == (tmp_path / "net.onnx", ())
    path, said = convert_file(tmp_path / "net.onnx", place, "fp16", None, "openvino")
    assert path == place and place.is_file() and said
    with pytest.raises(UsageError, match=r"precision 'fp4': unknown; give one of fp32, fp16, int8"):
        check_precision("fp4")
