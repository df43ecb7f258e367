"""Every operator in every version that opsets from 9 on have of it: ONNX's backend cases, written for that
opset, against ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, checker, defs, helper, numpy_helper, version_converter
from onnx.backend.test.loader import load_model_tests

from otgraph.errors import ModelError
from otgraph.graph.onnx.backend import to_array, to_tensor
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.opaque import ORT_ERRORS
from otgraph.graph.onnx.ops import activation
from otgraph.graph.onnx.ops.table import TABLE, TUPLES, Op

OLDEST = 9
EACH = 3
"""So many cases of an operator are tried in each of its versions."""
RENAMED = {"K": "k", "constant_value": "value"}
"""Inputs that were attributes of another name."""
Case = tuple[onnx.ModelProto, dict[str, Any], list[Any]]


def versions(op: str) -> list[int]:
    """The opsets from ``OLDEST`` on in which the operator begins to be another, and ``OLDEST`` itself."""
    schemas = [s for s in defs.get_all_schemas_with_history() if s.name == op and s.domain == ""]
    older = max((s.since_version for s in schemas if s.since_version <= OLDEST), default=0)
    found = {max(s.since_version, OLDEST) for s in schemas if s.since_version >= older and not s.deprecated}
    return sorted(found)


PAIRS = [(op, version) for domain, op in sorted(TABLE) if not domain for version in versions(op)]


@functools.cache
def cases() -> dict[str, list[Any]]:
    """The backend cases of one operator alone."""
    found: dict[str, list[Any]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            nodes = [node for node in case.model.graph.node if node.op_type != "Constant"]
            plain = all(port.type.HasField("tensor_type") for port in case.model.graph.input)
            if len(nodes) == 1 == len(case.model.graph.node) and plain and "training" not in case.name:
                found[nodes[0].op_type].append(case)
    return found


def written(case: Any, version: int) -> Iterator[Case]:
    """The case in that opset: declared, by ONNX's converter, and with inputs as the attributes they were."""
    inputs, outputs = ([_array(value) for value in values] for values in case.data_sets[0])
    feed = dict(zip([port.name for port in case.model.graph.input], inputs, strict=True))
    declared = onnx.ModelProto()
    declared.CopyFrom(case.model)
    if case.model.graph.node[0].op_type not in TUPLES:  # the others make what torch does not
        del declared.graph.node[0].output[1:], declared.graph.output[1:]
    for entry in declared.opset_import:
        entry.version = version if entry.domain in ("", "ai.onnx") else entry.version
    yield declared, feed, outputs
    with contextlib.suppress(RuntimeError, version_converter.ConvertError):
        yield version_converter.convert_version(case.model, version), feed, outputs
    older = _with_attributes(declared, case.model.opset_import[0].version, version, feed)
    if older is not None:
        yield older, {port.name: feed[port.name] for port in older.graph.input}, outputs


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _with_attributes(
    model: onnx.ModelProto, newer: int, version: int, feed: dict[str, Any]
) -> onnx.ModelProto | None:
    node = model.graph.node[0]
    now, then = (defs.get_schema(node.op_type, opset) for opset in (newer, version))
    names = [RENAMED.get(p.name, p.name) for p in now.inputs][: len(node.input)]
    if now.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
        return None
    values = dict(zip(names, node.input, strict=True))
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in then.attributes}
    for name in values.keys() & then.attributes.keys():
        if values[name]:
            array = np.asarray(feed[values[name]])
            if not array.size:
                return None
            attributes[name] = array.item() if array.ndim == 0 or name == "k" else array.tolist()
    read = [values.get(p.name, "") for p in then.inputs]
    while read and not read[-1]:
        read.pop()
    made: NodeProto = helper.make_node(node.op_type, read, list(node.output), **attributes)
    older = onnx.ModelProto()
    older.CopyFrom(model)
    older.graph.node[0].CopyFrom(made)
    for place, name in enumerate(read):
        if not name and then.inputs[place].option == defs.OpSchema.FormalParameterOption.Single:
            older.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), f"empty_{place}"))
            older.graph.node[0].input[place] = f"empty_{place}"
    ports = [port for port in model.graph.input if port.name in read]
    del older.graph.input[:]
    older.graph.input.extend(ports)
    return older


def engine(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any] | None:
    """What ONNX Runtime computes; None where it cannot."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        checker.check_model(model, full_check=True)
        return ort.InferenceSession(model.SerializeToString(), options).run(None, feed)
    except (*ORT_ERRORS, checker.ValidationError, onnx.shape_inference.InferenceError):
        return None


def agree(model: onnx.ModelProto, feed: dict[str, Any], wanted: list[Any]) -> bool:
    """Whether torch computed it; the values are asserted."""
    try:
        example = [to_tensor(array) for array in feed.values()]
    except ModelError:
        return False  # a type that the dialect has not
    graph = import_model(model, example=example)
    if any(node.op == "call_module" for node in graph.module.graph.nodes):
        return False
    for mine, theirs in zip(graph(*graph.example), wanted, strict=True):
        found, theirs = to_array(mine), np.asarray(theirs)
        assert found.dtype == theirs.dtype and found.shape == theirs.shape
        if theirs.dtype == ml_dtypes.bfloat16:
            found, theirs = found.astype(np.float32), theirs.astype(np.float32)
        np.testing.assert_allclose(found, theirs, rtol=1e-3, atol=1e-6)
    return True


def _held(feed: dict[str, Any]) -> bool:
    return all(array.dtype.kind in "biuf" for array in feed.values())


def tried(op: str, version: int) -> int:
    """How many cases of an operator torch computes as ONNX Runtime does in this opset, or as the case says
    where that opset is its own and ONNX Runtime has no such operator yet."""
    count = 0
    for case in cases()[op]:
        for model, feed, outputs in written(case, version):
            wanted = engine(model, feed)
            if wanted is None and version == case.model.opset_import[0].version:
                wanted = outputs[: len(model.graph.output)] if _held(feed) else None
            if wanted is not None and agree(model, feed, wanted):
                count += 1
                break
        if count == EACH:
            break
    return count


def check(pairs: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], list[str]]:
    """The pairs without a case, and what went wrong in the others."""
    without, failed = [], []
    for op, version in pairs:
        try:
            if not tried(op, version):
                without.append((op, version))
        except (AssertionError, ModelError) as error:
            failed.append(f"{op} in opset {version}: {error}")
    return without, failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_operator_in_every_version() -> None:
    without, failed = check(PAIRS)
    assert not failed, "\n".join(failed)
    assert without == []


@pytest.mark.filterwarnings("ignore")
def test_some_operators_in_some_versions() -> None:
    assert len(PAIRS) > 400
    assert check(PAIRS[::40]) == ([], [])


@pytest.mark.filterwarnings("ignore")
def test_the_meaning_of_another_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [("Softmax", 11)]
    assert check(pair) == ([], [])
    monkeypatch.setitem(TABLE, ("", "Softmax"), (Op("Softmax", activation.Softmax),))
    _, failed = check(pair)
    assert failed and failed[0].startswith("Softmax in opset 11:")
