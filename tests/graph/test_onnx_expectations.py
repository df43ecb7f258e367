"""Why the listed cases of ONNX's backend tests are not followed: each reason, proved on each case."""

from __future__ import annotations

import dataclasses
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from otgraph.graph.onnx.backend import OtgraphBackend, to_array, to_tensor
from otgraph.graph.onnx.ops import table

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
Case = Any


@pytest.fixture(scope="module")
def listed() -> dict[str, tuple[Case, str]]:
    """Every listed case with its reason."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
        expectations = import_module("onnx_expectations")
        found = {case.name: case for case in load_model_tests(kind="node")}
    return {name: (found[name], why) for name, why in expectations.LISTED.items()}


def of(listed: dict[str, tuple[Case, str]], reason: str) -> list[Case]:
    cases = [case for case, why in listed.values() if reason in why]
    assert cases
    return cases


def error(found: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).max())


@pytest.mark.filterwarnings("ignore")
def test_a_listed_case_is_still_failed(listed: dict[str, tuple[Case, str]]) -> None:
    for case, _ in listed.values():
        (inputs, outputs) = case.data_sets[0]
        found, wanted = (
            np.asarray(values[0], np.float32)
            for values in (OtgraphBackend.prepare(case.model).run(inputs), outputs)
        )
        assert not np.allclose(found, wanted, rtol=case.rtol, atol=case.atol)


@pytest.mark.filterwarnings("ignore")
def test_in_half_precision_ours_is_nearer_to_the_exact_value(listed: dict[str, tuple[Case, str]]) -> None:
    for case in of(listed, "rounds once"):
        inputs, outputs = case.data_sets[0]
        model = in_float64(case.model)
        feed = {
            port.name: array.astype(np.float64) if port.type.tensor_type.elem_type in HALVES else array
            for port, array in zip(case.model.graph.input, inputs, strict=True)
        }
        exact = ReferenceEvaluator(model).run(None, feed)
        assert exact[0].dtype == np.float64
        ours = OtgraphBackend.prepare(case.model).run(inputs)
        assert error(ours[0], exact[0]) < error(outputs[0], exact[0])


@pytest.mark.filterwarnings("ignore")
def test_with_the_softmax_of_the_reference_alone_ours_is_equal(
    listed: dict[str, tuple[Case, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (softmax,) = (op for op in table.TABLE["", "Softmax"] if op.until > 20)
    monkeypatch.setitem(table.TABLE, ("", "Softmax"), (dataclasses.replace(softmax, function=rounding),))
    for case in of(listed, "rounds once"):
        inputs, outputs = case.data_sets[0]
        for mine, wanted in zip(OtgraphBackend.prepare(case.model).run(inputs), outputs, strict=True):
            np.testing.assert_array_equal(np.asarray(mine, np.float32), np.asarray(wanted, np.float32))


def rounding(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """Softmax as ONNX's reference implementation rounds it."""
    array = to_array(x)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    ports = [helper.make_tensor_value_info(name, kind, None) for name in "xy"]
    node = helper.make_node("Softmax", ["x"], ["y"], axis=axis)
    model = helper.make_model(helper.make_graph([node], "softmax", ports[:1], ports[1:]))
    (made,) = ReferenceEvaluator(model).run(None, {"x": array})
    return to_tensor(made)


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same program with every float of it a double."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    floats = (*HALVES, TensorProto.FLOAT)
    for attribute in (attribute for node in wide.graph.node for attribute in node.attribute):
        if attribute.HasField("t") and attribute.t.data_type in floats:
            array = numpy_helper.to_array(attribute.t).astype(np.float64)
            attribute.t.CopyFrom(numpy_helper.from_array(array))
        if attribute.name == "to" and attribute.i in floats:
            attribute.i = TensorProto.DOUBLE
    return wide


@pytest.mark.filterwarnings("ignore")
def test_engines_divide_by_the_length_of_the_resized_tensor(listed: dict[str, tuple[Case, str]]) -> None:
    for case in of(listed, "resized length"):
        inputs, outputs = case.data_sets[0]
        (ours,) = OtgraphBackend.prepare(case.model).run(inputs)
        feed = {port.name: array for port, array in zip(case.model.graph.input, inputs, strict=True)}
        (engine,) = ort.InferenceSession(case.model.SerializeToString()).run(None, feed)
        np.testing.assert_allclose(ours, engine, rtol=1e-6)
        assert error(outputs[0], engine) > 0.5


def test_openvino_agrees(listed: dict[str, tuple[Case, str]]) -> None:
    openvino = pytest.importorskip("openvino")
    for case in of(listed, "resized length"):
        inputs, outputs = case.data_sets[0]
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        scales = model.graph.input.pop()
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(inputs[-1]), scales.name))
        core = openvino.Core()
        program = core.read_model(model.SerializeToString())
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        (theirs,) = core.compile_model(program, "CPU", settings)({0: inputs[0]}).values()
        (ours,) = OtgraphBackend.prepare(case.model).run(inputs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert error(outputs[0], theirs) > 0.5
