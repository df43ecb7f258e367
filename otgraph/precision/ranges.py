"""How large the values inside a network become on given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from otgraph.engines.feeds import FeedBatch
from otgraph.precision.session import open_session

PREFIX = "otgraph_range_"


def value_ranges(
    model: onnx.ModelProto, types: Mapping[str, int], batches: Iterable[FeedBatch], name: str
) -> dict[str, float]:
    """The largest finite magnitude that each float32 value of the main graph takes on ``batches``.

    ``types`` of the values as ONNX numbers them. Only the maxima leave the network, one number for each value
    and batch, so memory stays what a run takes. Raises ``ModelError`` where the network cannot be run so.
    """
    watched = _watched(model, types)
    session = open_session(_watching(model, watched), name)
    found = np.zeros(len(watched))
    for batch in batches:
        outputs = session.run(batch.feeds)
        here = [float(outputs[f"{PREFIX}{index}"]) for index in range(len(watched))]
        found = np.maximum(found, here)
    return dict(zip(watched, found.tolist(), strict=True))


def _watched(model: onnx.ModelProto, types: Mapping[str, int]) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in stored]
    made = [name for node in model.graph.node for name in node.output]
    return [name for name in (*inputs, *made) if types.get(name) == TensorProto.FLOAT]


def _watching(model: onnx.ModelProto, watched: list[str]) -> onnx.ModelProto:
    """The network with one output for each of the watched values: its largest finite magnitude."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    bounds = {f"{PREFIX}infinity": np.float32(np.inf), f"{PREFIX}zero": np.float32(0)}
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), bound) for bound, value in bounds.items()
    )
    infinity, zero = bounds
    for index, value in enumerate(watched):
        result = f"{PREFIX}{index}"
        size, finite, counted = (f"{result}_{step}" for step in ("size", "finite", "counted"))
        copy.graph.node.extend(
            [
                helper.make_node("Abs", [value], [size]),
                # infinities are infinities in float16 too, and NaN is below nothing
                helper.make_node("Less", [size, infinity], [finite]),
                helper.make_node("Where", [finite, size, zero], [counted]),
                helper.make_node("ReduceMax", [counted], [result], keepdims=0),
            ]
        )
        copy.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
    return copy
