"""ONNX's own backend tests, for every operator that has a torch function."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from otgraph.errors import ModelError
from otgraph.graph.onnx.backend import OtgraphBackend, to_array, to_tensor
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.ops.table import TABLE

SAMPLE = 8
"""One case in so many runs in the quick suite."""


@functools.cache
def cases() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
        listed = import_module("onnx_expectations").LISTED
    return tuple(case for case in found if _covered(case) and case.name not in listed)


def _covered(case: Any) -> bool:
    """Whether torch has its operators and types, and the outcome is not random (dropout in training)."""
    known = {("", "Constant"), *TABLE}
    covered = all((node.domain, node.op_type) in known for node in case.model.graph.node)
    arrays = [array for ins, outs in case.data_sets for array in (*ins, *outs)]
    plain = all(isinstance(a, (np.ndarray, np.generic)) and _held(a.dtype) for a in arrays)
    return covered and plain and "training_dropout" not in case.name


def _held(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" or dtype == ml_dtypes.bfloat16


def check(case: Any) -> int:
    """Run every data set of a case; returns how many nodes were left to ONNX Runtime."""
    opaque = 0
    for inputs, outputs in case.data_sets:
        graph = import_model(case.model, example=[to_tensor(array) for array in inputs])
        opaque += sum(node.op == "call_module" for node in graph.module.graph.nodes)
        for mine, wanted in zip(graph(*graph.example), outputs, strict=True):
            found = to_array(mine)
            assert found.dtype == wanted.dtype and found.shape == wanted.shape
            if wanted.dtype == ml_dtypes.bfloat16:
                found, wanted = found.astype(np.float32), wanted.astype(np.float32)
            np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=case.atol)
    return opaque


def run(chosen: tuple[Any, ...]) -> tuple[int, int, list[str]]:
    passed, opaque, failed = 0, 0, []
    for case in chosen:
        try:
            opaque += check(case) > 0
            passed += 1
        except (AssertionError, ModelError, RuntimeError) as error:
            failed.append(f"{case.name}: {error}")
    return passed, opaque, failed


@pytest.mark.filterwarnings("ignore")
def test_a_sample_of_the_backend_tests() -> None:
    passed, opaque, failed = run(cases()[::SAMPLE])
    assert not failed, "\n".join(failed)
    assert passed > 100 and opaque < passed / 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_backend_tests() -> None:
    passed, opaque, failed = run(cases())
    assert not failed, "\n".join(failed)
    assert passed > 900 and opaque < passed / 4


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_expectation_is_noticed() -> None:
    case = next(case for case in cases() if case.name == "test_relu")
    inputs, outputs = case.data_sets[0]
    wrong = dataclasses.replace(case, data_sets=[(inputs, [outputs[0] + 0.01])])
    assert run((wrong,))[2] and not run((case,))[2]


# the dialect as a backend of ONNX


def _node_case(name: str) -> Any:
    return next(case for case in load_model_tests(kind="node") if case.name == name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["test_softmax_axis_1", "test_gemm_all_attributes", "test_split_equal_parts_1d_opset18"]
)
def test_the_backend_runs_models_and_single_nodes(name: str) -> None:
    case = _node_case(name)
    inputs, outputs = case.data_sets[0]
    rep = OtgraphBackend.prepare(case.model)
    for found in (rep.run(inputs), OtgraphBackend.run_node(case.model.graph.node[0], inputs)):
        for mine, wanted in zip(found, outputs, strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-5)
    by_name = dict(zip([port.name for port in case.model.graph.input], inputs, strict=True))
    np.testing.assert_array_equal(rep.run(by_name)[0], rep.run(inputs)[0])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_types_that_numpy_lacks_go_in_and_out(name: str) -> None:
    array = np.array([[1.0, -2.5, 0.0]]).astype(getattr(ml_dtypes, name, "float16"))
    (found,) = OtgraphBackend.run_node(onnx.helper.make_node("Identity", ["x"], ["y"]), [array])
    assert found.dtype == array.dtype and (found.view(np.uint8) == array.view(np.uint8)).all()


def test_the_backend_says_what_it_does_not_take() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(ModelError, match="device CUDA: is not supported; use CPU"):
        OtgraphBackend.prepare(_node_case("test_relu").model, "CUDA")
    with pytest.raises(ModelError, match="an input is a list: only tensors are supported"):
        OtgraphBackend.prepare(_node_case("test_relu").model).run([[1.0]])
    assert OtgraphBackend.supports_device("CPU") and not OtgraphBackend.supports_device("CUDA:1")
    assert OtgraphBackend.run_node(node, {"x": np.ones(2, np.float32)})[0].tolist() == [1.0, 1.0]
