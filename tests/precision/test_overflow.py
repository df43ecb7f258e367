"""What float16 cannot hold stays in float32, all the way: no detour, no clamp, and what shows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from otgraph.data import Data
from otgraph.device import build
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import DataError, ModelError
from otgraph.precision.float16 import to_float16
from otgraph.precision.rounding import round_like_float16

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(6, 4)).astype(np.float32)
W = DRAW.normal(size=(4, 4)).astype(np.float32)
INPUTS = Data.from_arrays({"x": X})

HUGE, LITTLE = np.full((1,), 1e5, np.float32), np.full((1,), 1e-5, np.float32)
BIG, SMALL = np.full((1,), 6e4, np.float32), np.full((1,), 1 / 6e4, np.float32)

LARGE_WEIGHTS = {
    "of a node without a name": "{ y = MatMul (x, wide) }",
    "of a node with a name, before the output": "{ [product] y = MatMul (x, wide) }",
    "in a Constant": "{ k = Constant <value = float[1] {100000.0}> ()  a = Mul (x, k)  y = Mul (a, little) }",
    "in a Constant of one number": (
        "{ k = Constant <value_float = 100000.0> ()  a = Mul (x, k)  y = Mul (a, w0) }"
    ),
    "reshaped first": "{ k = Identity (huge)  a = Mul (x, k)  y = Mul (a, little) }",
    "filled in": (
        "<int64[1] one = {1}>"
        " { k = ConstantOfShape <value = float[1] {100000.0}> (one)  a = Mul (x, k)  y = Mul (a, little) }"
    ),
    "with its range undone later": (
        "{ a = MatMul (x, wide)  b = Relu (a)  c = Mul (b, little)  y = MatMul (c, w) }"
    ),
    "read by a body": """<bool yes = {1}> {
        y = If (yes) <
            then_branch = a () => (float[N,4] o) { o = MatMul (x, wide) },
            else_branch = b () => (float[N,4] p) { p = Exp (x) }
        >
    }""",
}
OVERFLOWS = "{ a = MatMul (x, w)  [up] b = Mul (a, big)  [down] c = Mul (b, small)  y = MatMul (c, w) }"


def model(body: str) -> onnx.ModelProto:
    """With the weights that the text speaks of."""
    made = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) {body}'
    )
    weights = {
        "w": W,
        "wide": W * 1e5,
        "huge": HUGE,
        "little": LITTLE,
        "big": BIG,
        "small": SMALL,
        "w0": W[:1] / 1e5,
    }
    made.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in weights.items() if name in body
    )
    return made


def by_reference(each: onnx.ModelProto) -> np.ndarray:
    """ONNX's own evaluator, which computes float16 in float16."""
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(each).run(None, {"x": X})[0])


def by_runtime(each: onnx.ModelProto) -> np.ndarray:
    return OnnxRuntime().load(each.SerializeToString()).run({"x": X})["y"]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def nodes(graph: onnx.GraphProto) -> Iterator[str]:
    return (node.op_type for node in graph.node)


@pytest.mark.parametrize("body", LARGE_WEIGHTS.values(), ids=LARGE_WEIGHTS)
@pytest.mark.parametrize("calibration", [None, INPUTS], ids=["unseen", "calibrated"])
def test_a_weight_that_float16_cannot_hold_changes_nothing(body: str, calibration: Data | None) -> None:
    original = model(body)
    wanted = by_reference(original)
    half, said = to_float16(original, calibration)
    assert error(by_reference(half), wanted) < 1e-3
    assert error(by_runtime(half), wanted) < 1e-3
    assert any("stays in float32" in remark.message for remark in said)


def test_overflow_is_seen_by_the_stand_in_and_not_by_the_engine() -> None:
    """Why the stand-in is there: ONNX Runtime computes float16 in float32 and hides what a GPU would give."""
    original = model(OVERFLOWS)
    half, said = to_float16(original)
    assert error(by_runtime(half), by_runtime(original)) < 1e-2
    assert not np.isfinite(by_reference(half)).all()
    assert not np.isfinite(by_runtime(round_like_float16(half))).all()
    assert said[-1].message == (
        "what its values reach was not looked at, so some may overflow; give --calib DATA"
    )


def test_what_overflows_on_the_calibration_inputs_stays() -> None:
    original = model(OVERFLOWS)
    half, said = to_float16(original, INPUTS)
    assert error(by_reference(half), by_reference(original)) < 1e-3
    assert list(nodes(half.graph)) == ["Cast", "MatMul", "Cast", "Mul", "Mul", "Cast", "MatMul", "Cast"]
    kept = [remark for remark in said if remark.kind == "missed"]
    assert [remark.where for remark in kept] == ["up", "down"]
    reached = float(np.abs(X @ W).max() * 6e4)
    assert all(f"values reach {reached:.3g} on the calibration" in remark.message for remark in kept)
    assert said[0].metrics["nodes"] == 2 and said[0].metrics["samples"] == 6
    figure = said[0].metrics["relative_error"]
    assert figure == pytest.approx(error(by_reference(half), by_reference(original)), rel=0.05)


def test_the_stand_in_rounds_as_the_reference_does() -> None:
    half, _ = to_float16(
        model("{ a = MatMul (x, w)  b = Tanh (a)  e = Exp (b)  c = Add (e, a)  y = Relu (c) }")
    )
    found = by_runtime(round_like_float16(half))
    assert error(found, by_reference(half)) < 1e-6 < error(found, by_runtime(half))


def test_bodies_are_fed_in_float32() -> None:
    original = model("""<float zero = {0.0}> {
        a = MatMul (x, w)
        m = ReduceMax <keepdims = 0> (a)
        c = Greater (m, zero)
        b = If (c) <
            then_branch = t () => (float[N,4] o) { o = MatMul (a, w) },
            else_branch = e () => (float[N,4] p) { q = Exp (a)  p = Mul (q, zero) }
        >
        y = MatMul (b, w)
    }""")
    half, said = to_float16(original, INPUTS)
    onnx.checker.check_model(half, full_check=True)
    assert 0 < error(by_reference(half), by_reference(original)) < 1e-3
    assert "If" in [remark.where for remark in said]


def test_an_output_that_is_read_and_one_that_is_given_twice_keep_their_names() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y, float[N,4] z) {
        y = Exp (x)
        a = Exp (y)
        z = MatMul (a, w)
    }"""
    original = parser.parse_model(text)
    original.graph.initializer.append(numpy_helper.from_array(W, "w"))
    half, _ = to_float16(original, INPUTS)
    onnx.checker.check_model(half, full_check=True)
    assert [output.name for output in half.graph.output] == ["y", "z"]
    for found, wanted in zip(
        *(ReferenceEvaluator(each).run(None, {"x": X}) for each in (half, original)), strict=True
    ):
        assert error(np.asarray(found), np.asarray(wanted)) < 1e-3


def test_infinities_are_no_overflow() -> None:
    """Attention masks are made of them."""
    body = "<float[4] mask = {0.0, 0.0, 0.0, 0.0}> { a = Add (x, mask)  b = MatMul (x, w)  y = Add (a, b) }"
    original = model(body)
    mask = next(tensor for tensor in original.graph.initializer if tensor.name == "mask")
    mask.CopyFrom(numpy_helper.from_array(np.array([0, -np.inf, 0, 0], np.float32), "mask"))
    half, said = to_float16(original, INPUTS)
    assert [remark.kind for remark in said] == ["applied"]
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}


def test_a_network_that_overflows_nevertheless_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otgraph.precision.wide.LIMIT", 1e9)
    with pytest.raises(
        ModelError, match=r"net: overflows in float16 on the calibration inputs; keep it in fp32"
    ):
        to_float16(model(OVERFLOWS), INPUTS)


def test_calibration_inputs_have_to_fit() -> None:
    with pytest.raises(DataError, match=r"no array for input 'x' \(has: image\); rename it"):
        to_float16(model("{ y = MatMul (x, w) }"), Data.from_arrays({"image": X}))


def test_build_looks_for_overflow_too(tmp_path) -> None:
    onnx.save(model(OVERFLOWS), tmp_path / "net.onnx")
    built = build(tmp_path / "net.onnx", tmp_path / "half.onnx", precision="fp16", calibration=INPUTS)
    assert [remark.where for remark in built.remarks] == ["net.onnx", "up", "down"]
    assert np.isfinite(by_reference(onnx.load(tmp_path / "half.onnx"))).all()
