"""Cutting quantized networks: the saved file computes, in ONNX Runtime, what the original does with the
channels at zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.onnx.importer import import_model
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline

MIDDLE, IMAGE = 8, (2, 3, 6, 6)
TYPES = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32}
LIMIT = 1e-5


def quantizer(
    name: str, dtype: str, *, zero: int | list[int] | None = 0, count: int = 0, step: float = 0.04
) -> list[onnx.TensorProto]:
    """A scale and a zero point (none for None), ``count`` of each or one."""
    random = np.random.default_rng(len(name))
    scale = random.uniform(0.5, 1.5, count).astype(np.float32) * step if count else np.float32(step)
    made = [numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_scale")]
    if zero is not None:
        points = np.full(count, zero) if count and isinstance(zero, int) else np.asarray(zero)
        made.append(numpy_helper.from_array(points.astype(TYPES[dtype]), f"{name}_zero"))
    return made


def steps(name: str, dtype: str, *shape: int, center: int = 0) -> onnx.TensorProto:
    drawn = np.random.default_rng(sum(map(ord, name))).integers(-60, 60, shape)
    return numpy_helper.from_array((drawn + center).astype(TYPES[dtype]), name)


def call(kind: str, name: str, source: str, stored: list[onnx.TensorProto], axis: int = 1) -> onnx.NodeProto:
    return helper.make_node(kind, [source, *(t.name for t in stored)], [name], name=name, axis=axis)


def network(
    activation: list[onnx.TensorProto] | None = None,
    writer: tuple[onnx.TensorProto, list[onnx.TensorProto], int] | None = None,
    reader: tuple[onnx.TensorProto, list[onnx.TensorProto], int] | None = None,
    back: list[onnx.TensorProto] | None = None,
) -> onnx.ModelProto:
    """Conv, Relu, [Q, DQ], Conv; the weights as they are or dequantized. ``back``: another Q's parameters."""
    random = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(random.normal(0, 0.3, (MIDDLE, 3, 3, 3)).astype(np.float32), "w0"),
        numpy_helper.from_array(random.normal(0, 0.3, MIDDLE).astype(np.float32), "b0"),
        numpy_helper.from_array(random.normal(0, 0.3, (5, MIDDLE, 3, 3)).astype(np.float32), "w1"),
    ]
    nodes, weights = [], {"w0": "w0", "w1": "w1"}
    for name, quantized in (("w0", writer), ("w1", reader)):
        if quantized is not None:
            integers, parameters, axis = quantized
            stored = [t for t in stored if t.name != name] + [integers, *parameters]
            nodes.append(call("DequantizeLinear", f"{name}_real", integers.name, parameters, axis))
            weights[name] = f"{name}_real"
    nodes.append(helper.make_node("Conv", ["x", weights["w0"], "b0"], ["c0"], "c0", pads=[1] * 4))
    nodes.append(helper.make_node("Relu", ["c0"], ["r0"], "r0"))
    source = "r0"
    if activation is not None:
        read = activation if back is None else back
        nodes += [call("QuantizeLinear", "q", "r0", activation), call("DequantizeLinear", "dq", "q", read)]
        stored += [*activation, *(back or [])]
        source = "dq"
    nodes.append(helper.make_node("Conv", [source, weights["w1"]], ["y"], "c1", pads=[1] * 4))
    return model_of(nodes, stored)


def model_of(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], outputs: Any = ("y",)) -> Any:
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *IMAGE[1:]])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto | Path, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # fused, it rounds elsewhere
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def cut(model: onnx.ModelProto, pipeline: str = "prune-channels{keep=0.5}") -> Result:
    return PassManager(parse_pipeline(pipeline)).run(import_model(model))


def kept(model: onnx.ModelProto, small: onnx.ModelProto, name: str, axis: int) -> np.ndarray[Any, Any]:
    """Which indices of a stored tensor are left, found by value."""
    old, new = (
        np.moveaxis(
            next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == name), axis, 0
        ).reshape(-1)
        for m in (model, small)
    )
    size = next(t.dims[axis] for t in model.graph.initializer if t.name == name)
    left = next(t.dims[axis] for t in small.graph.initializer if t.name == name)
    rows = {row.tobytes(): i for i, row in enumerate(old.reshape(size, -1))}
    return np.array([rows[row.tobytes()] for row in new.reshape(left, -1)])


def silence(model: onnx.ModelProto, keep: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """The original with channels at zero: multiplied by zeros behind the activation, and nothing else."""
    silent = onnx.ModelProto.FromString(model.SerializeToString())
    gates = np.zeros((1, MIDDLE, 1, 1), np.float32)
    gates[:, keep] = 1
    silent.graph.initializer.append(numpy_helper.from_array(gates, "gates"))
    at = next(i for i, node in enumerate(silent.graph.node) if node.name == "r0")
    for node in silent.graph.node:
        node.input[:] = ["gated" if name == "r0" else name for name in node.input]
    silent.graph.node.insert(at + 1, helper.make_node("Mul", ["r0", "gates"], ["gated"], "gate"))
    return silent


ACTIVATIONS = {
    "float": None,
    "uint8": quantizer("act", "uint8"),
    "no zero point": quantizer("act", "uint8", zero=None),
    "uint8 asymmetric": quantizer("act", "uint8", zero=37),
    "int8": quantizer("act", "int8"),
    "int8 asymmetric": quantizer("act", "int8", zero=-90),
    "int16": quantizer("act", "int16", zero=-5, step=1e-3),
    "uint16": quantizer("act", "uint16", zero=300, step=1e-3),
    "per channel": quantizer("act", "uint8", count=MIDDLE),
    "per channel asymmetric": quantizer("act", "uint8", count=MIDDLE, zero=[3, 0, 41, 9, 1, 7, 90, 2]),
}


def weight(
    name: str, dtype: str, along: int | None, zero: int | list[int] | None
) -> tuple[onnx.TensorProto, list[onnx.TensorProto], int]:
    shape = (MIDDLE, 3, 3, 3) if name == "w0" else (5, MIDDLE, 3, 3)
    center = int(np.mean(zero)) if zero is not None else 0
    count = 0 if along is None else shape[along]
    parameters = quantizer(f"{name}q", dtype, zero=zero, count=count, step=0.01)
    return steps(f"{name}q", dtype, *shape, center=center), parameters, 0 if along is None else along


WEIGHTS: dict[str, tuple[str, int | None, int | None]] = {
    "int8": ("int8", None, 0),
    "no zero point": ("int8", None, None),
    "int8 asymmetric": ("int8", None, -7),
    "uint8": ("uint8", None, 128),
    "int8 per output": ("int8", 0, 0),
    "uint8 per output": ("uint8", 0, 120),
    "int8 per input": ("int8", 1, 0),
    "uint8 per input": ("uint8", 1, 131),
    "int16": ("int16", None, 11),
    "uint16 per output": ("uint16", 0, 1000),
}
"""Type, axis of a scale per index, zero point."""
CASES = [
    *((activation, "", "") for activation in ACTIVATIONS if activation != "float"),
    *(("float", kind, "") for kind in WEIGHTS),
    *(("float", "", kind) for kind in WEIGHTS),
    *(
        ("per channel asymmetric", kind, other)
        for kind, other in zip(WEIGHTS, reversed(WEIGHTS), strict=True)
    ),
]


@pytest.mark.parametrize(("activation", "writer", "reader"), CASES)
def test_a_cut_quantized_network_is_the_original_with_the_channels_at_zero(
    activation: str, writer: str, reader: str, tmp_path: Path
) -> None:
    model = network(
        ACTIVATIONS[activation],
        weight("w0", *WEIGHTS[writer]) if writer else None,
        weight("w1", *WEIGHTS[reader]) if reader else None,
    )
    result = cut(model)
    assert not result.spared, [str(remark) for remark in result.remarks]
    result.graph.save(tmp_path / "small.onnx")
    small = onnx.load(tmp_path / "small.onnx")
    stays = kept(model, small, "b0", 0)
    assert len(stays) == MIDDLE // 2
    for tensor in small.graph.initializer:
        old = next(t for t in model.graph.initializer if t.name == tensor.name)
        assert tensor.data_type == old.data_type
    x = np.random.default_rng(1).normal(size=IMAGE).astype(np.float32)
    (wanted,), (found,) = run(silence(model, stays), x), run(tmp_path / "small.onnx", x)
    (whole,) = run(model, x)
    assert np.linalg.norm(found - wanted) <= LIMIT * np.linalg.norm(wanted)
    assert np.linalg.norm(found - whole) > 100 * LIMIT * np.linalg.norm(whole)


def test_the_largest_channels_are_those_of_the_numbers_not_of_the_integers() -> None:
    integers, (scale, zero), axis = weight("w0", "int8", 0, 0)
    steep = numpy_helper.from_array(np.array([1, 9] * 4, np.float32), scale.name)
    model = network(ACTIVATIONS["uint8"], (integers, [steep, zero], axis))
    graph = cut(model).graph
    assert graph.tensor(scale.name).tolist() == [9, 9, 9, 9]


def test_another_zero_point_does_not_matter_where_the_reader_is_cut() -> None:
    """What is dequantized is not zero then; the weights that read it are."""
    model = network(quantizer("act", "uint8", zero=10), back=quantizer("back", "uint8", zero=20))
    result = cut(model)
    assert not result.spared
    assert result.graph.tensor("w1").shape[1] == MIDDLE // 2


def test_a_mean_over_channels_that_do_not_come_back_to_zero_keeps_them() -> None:
    same, other = quantizer("act", "uint8", zero=10), quantizer("back", "uint8", zero=20)
    for read, blocked in ((same, False), (other, True)):
        model = network(same, back=None if read is same else read)
        model.graph.node[-1].CopyFrom(
            helper.make_node("ReduceSum", ["dq", "along"], ["y"], "sum", keepdims=1)
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "along"))
        del model.graph.initializer[2]  # w1
        reason = analyze(import_model(model)).dims["w0"].blocked
        assert (reason is not None and "sum entries" not in reason and "do not vanish" in reason) == blocked
        assert not cut(model).spared


def reread(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The network with ``nodes`` between its quantizer and the rest; the last makes ``dq``."""
    model = network(ACTIVATIONS["uint8"])
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "DequantizeLinear")
    old = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*old[:at], *nodes, *old[at + 1 :]])
    return model


def test_integers_that_something_else_reads_keep_their_channels_and_the_quantizer_is_named() -> None:
    parameters = ACTIVATIONS["uint8"]
    assert parameters is not None
    pool = helper.make_node("MaxPool", ["q"], ["pooled"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    model = reread(pool, call("DequantizeLinear", "dq", "pooled", parameters))
    result = cut(model)
    assert not result.spared
    (said,) = [str(remark) for remark in result.remarks if "integers of q" in str(remark)]
    assert said.startswith("missed: prune-channels: w0: blocked by integers of q")


def test_integers_that_a_model_returns_keep_their_channels() -> None:
    model = network(ACTIVATIONS["uint8"])
    model.graph.output.append(onnx.ValueInfoProto(name="q"))
    result = cut(model)
    assert not result.spared
    assert result.graph.tensor("w0").shape[0] == MIDDLE


@pytest.mark.parametrize("kind", ["INT32", "INT8", "INT64"])
def test_numbers_cast_to_integers_keep_their_channels(kind: str) -> None:
    there = helper.make_node("Cast", ["r0"], ["whole"], "truncate", to=getattr(TensorProto, kind))
    back = helper.make_node("Cast", ["whole"], ["dq"], "back", to=TensorProto.FLOAT)
    model = reread(there, back)
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        model.graph.node.remove(node)
    result = cut(model)
    assert not result.spared, [str(remark) for remark in result.remarks]
    assert "truncate" in (analyze(import_model(model)).dims["w0"].blocked or "")


def test_stored_integers_of_two_zero_points_keep_their_channels() -> None:
    integers, parameters, axis = weight("w1", "int8", None, 5)
    model = network(None, reader=(integers, parameters, axis))
    other = quantizer("other", "int8", zero=9)
    model.graph.initializer.extend(other)
    model.graph.node.insert(0, call("DequantizeLinear", "second", integers.name, other))
    model.graph.node.append(helper.make_node("Conv", ["r0", "second"], ["z"], "c2"))
    model.graph.output.append(onnx.ValueInfoProto(name="z"))
    result = cut(model)
    assert not result.spared
    assert result.graph.tensor("w0").shape[0] == MIDDLE
