"""Int8 of models as they come: old opsets, fixed batches, and names that a user knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.data import Data
from otgraph.device import build
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError
from otgraph.precision.int8 import to_int8
from otgraph.precision.opset import opset_of, raise_opset
from otgraph.remark import Remark

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(20, 3, 6, 6)).astype(np.float32)
KERNEL = DRAW.normal(size=(4, 3, 3, 3)).astype(np.float32) * np.array([1, 10, 100, 1000], np.float32).reshape(
    4, 1, 1, 1
)


def convolution(opset: int, batch: str = "N", more: str = "y = Relu (c)") -> onnx.ModelProto:
    """Its output channels differ a thousandfold, which one scale per weight does not survive."""
    model = parser.parse_model(
        f'<ir_version: 7, opset_import: ["" : {opset}]>'
        f" net (float[{batch},3,6,6] x) => (float[{batch},4,4,4] y)"
        f" {{ [conv] c = Conv (x, w)  {more} }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(KERNEL, "w"))
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return OnnxRuntime().load(model.SerializeToString()).run({"x": x})["y"]


def first_channel_error(model: onnx.ModelProto, other: onnx.ModelProto, x: np.ndarray) -> float:
    a, b = (run(each, x)[:, 0] for each in (model, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_old_opset_is_quantized_per_channel(opset: int, symmetric: bool) -> None:
    model = convolution(opset, more="y = Identity (c)")
    small, said = to_int8(model, Data.from_arrays({"x": X}), symmetric=symmetric)
    onnx.checker.check_model(small)
    assert opset_of(small) >= 13
    assert [remark.kind for remark in said] == ["applied"]
    scales = [t for t in small.graph.initializer if t.name == "w_scale"]
    assert list(scales[0].dims) == [4]
    if symmetric:  # the output, of which channel 3 makes the range, stays in float
        assert first_channel_error(model, small, X) < 0.03


def test_what_cannot_be_raised_gets_one_scale_per_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> onnx.ModelProto:
        raise RuntimeError("No Adapter From Version 11")

    monkeypatch.setattr("otgraph.precision.opset.version_converter.convert_version", refuse)
    small, said = to_int8(convolution(11), Data.from_arrays({"x": X}), symmetric=True)
    onnx.checker.check_model(small)
    run(small, X)
    assert said[1] == Remark(
        "missed",
        "to-int8",
        "net",
        "has one scale per weight, not per channel: net: cannot be brought from opset 11 to 13 (No Adapter"
        " From Version 11); export it with opset 13 or later",
    )


def test_a_later_opset_that_means_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        other = convolution(opset, more="d = Neg (c)  y = Relu (d)")
        assert len(other.graph.node) > len(model.graph.node)
        return other

    monkeypatch.setattr("otgraph.precision.opset.version_converter.convert_version", turned)
    with pytest.raises(
        ModelError, match=r"net: cannot be brought from opset 11 to 13: output y differs; export"
    ):
        raise_opset(convolution(11), 13, {"x": X[:2]}, "net")


def test_sums_stay_in_float_and_rectifiers_do_not() -> None:
    model = convolution(
        17, more="a = Add (c, c)  d = Conv (r, u)  y = Add (a, d)".replace("a =", "r = Relu (c)  a =")
    )
    kernel = DRAW.normal(size=(4, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "u"))
    small, _ = to_int8(model, Data.from_arrays({"x": X}))
    quantized = {node.input[0] for node in small.graph.node if node.op_type == "QuantizeLinear"}
    made = {name: node.op_type for node in small.graph.node for name in node.output}
    assert {made.get(name, "input") for name in quantized} == {"input", "Conv", "Relu"}
    assert [node.op_type for node in small.graph.node].count("Add") == 2


@pytest.mark.parametrize("count", [4, 20])
def test_a_fixed_batch_is_filled_and_every_input_counts(count: int) -> None:
    model = convolution(17, batch="8")
    x = X[:count].copy()
    x[-1] *= 10  # the range is that of the last input, which would be in no whole batch
    small, said = to_int8(model, Data.from_arrays({"x": x}), symmetric=True)
    assert said[0].metrics == {"products": 1, "samples": count}
    scale = next(numpy_helper.to_array(t) for t in small.graph.initializer if t.name == "x_scale")
    assert float(scale) == pytest.approx(np.abs(x).max() / 127, rel=0.02)


def test_a_result_that_is_not_valid_is_an_error_under_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(convolution(11), tmp_path / "net.onnx")
    monkeypatch.setattr("otgraph.precision.int8.PER_CHANNEL", 11)  # as if opset 11 had scales per channel
    with pytest.raises(ModelError, match=r"^net\.onnx: in int8 .*axis.*; keep it in fp32$"):
        build(
            tmp_path / "net.onnx",
            tmp_path / "out.onnx",
            precision="int8",
            calibration=Data.from_arrays({"x": X}),
        )
    assert not (tmp_path / "out.onnx").exists()


def test_what_an_engine_says_of_the_converted_file_names_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, model: Path, *__: object) -> None:
        raise ModelError(f"{model}: cannot be built")

    onnx.save(convolution(17), tmp_path / "net.onnx")
    monkeypatch.setattr("otgraph.engines.onnxruntime.Provider.build", refuse)
    with pytest.raises(ModelError, match=r"^net\.onnx in fp16: cannot be built$"):
        build(tmp_path / "net.onnx", tmp_path / "out.onnx", precision="fp16")
