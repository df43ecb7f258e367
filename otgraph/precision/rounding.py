"""A float16 network that says what float16 does to it, on an engine that would compute it in float32.

ONNX Runtime has no float16 arithmetic on most processors: it computes in float32 and drops the casts between,
so that overflow is not seen. The stand-in here is a float32 network with a cast to float16 and back after
every value that is float16, which ONNX Runtime carries out. Sums within one operator are taken in float32, as
engines take them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from otgraph.engines.feeds import FeedBatch
from otgraph.precision.session import open_session

FULL, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def round_like_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, with float32 inputs and outputs and some float16 between, as a float32 network that rounds
    wherever ``model`` would. Bodies of control flow are taken as they are."""
    types = value_types(onnx.shape_inference.infer_shapes(model))
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    nodes = list(graph.node)
    del graph.node[:]
    del graph.value_info[:]
    for node in nodes:
        _widen(node)
        made = {index: name for index, name in enumerate(node.output) if types.get(name) == HALF}
        for index, name in made.items():
            node.output[index] = f"{name}_exact"
        graph.node.append(node)
        for name in made.values():
            graph.node.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=HALF))
            graph.node.append(helper.make_node("Cast", [f"{name}_half"], [name], to=FULL))
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    return rounded


def float16_error(
    original: onnx.ModelProto, half: onnx.ModelProto, batches: Iterable[FeedBatch], name: str
) -> float:
    """‖a - b‖ / ‖a‖ of the float outputs, ``half`` rounded for good; infinite where its outputs are not
    finite and those of ``original`` are. Raises ``ModelError`` where one of them cannot be run."""
    a, b = open_session(original, name), open_session(round_like_float16(half), name)
    distance, size = 0.0, 0.0
    for batch in batches:
        wanted, found = a.run(batch.feeds), b.run(batch.feeds)
        for key, value in wanted.items():
            if value.dtype.kind != "f":
                continue
            want, have = (batch.real(each).astype(np.float64) for each in (value, found[key]))
            real = np.isfinite(want)
            distance += float(np.square(want[real] - have[real]).sum())
            size += float(np.square(want[real]).sum())
    if not np.isfinite(distance):
        return float("inf")
    return float(np.sqrt(distance / size)) if size else float(np.sqrt(distance))


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value of the main graph that has one stated."""
    graph = model.graph
    stated = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    }
    return {**stated, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def _widen(node: onnx.NodeProto) -> None:
    """What the node holds and states in float16, in float32."""
    for item in node.attribute:
        if item.name in ("to", "dtype") and item.i == HALF:
            item.i = FULL
        for tensor in _held(item):
            _widen_tensor(tensor)


def _held(item: onnx.AttributeProto) -> Iterator[TensorProto]:
    if item.type == onnx.AttributeProto.TENSOR:
        yield item.t
    yield from item.tensors


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == HALF:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
