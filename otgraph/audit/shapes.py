"""The concrete shape of each tensor of an ONNX model, for one set of feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError

from otgraph.data import Array
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError

Shapes = dict[str, tuple[int, ...]]


def read_model(path: Path, *, with_external_data: bool) -> onnx.ModelProto:
    """The model, its local functions inlined. Raises ``ModelError`` when it is no ONNX file."""
    try:
        model = onnx.load(str(path), load_external_data=with_external_data)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: not a readable ONNX file ({error})") from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def infer(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Shapes:
    """What ONNX's shape inference finds once the inputs have the shapes of ``feeds``."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they may repeat sizes of another batch
    for value in (*fixed.graph.input, *fixed.graph.output):
        shape = value.type.tensor_type.shape
        if value.name in feeds:
            del shape.dim[:]
            for size in feeds[value.name].shape:
                shape.dim.add().dim_value = size
        else:
            for dim in shape.dim:
                dim.ClearField("dim_param")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: over protobuf's 2 GB
        inferred = fixed.graph
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shape = _concrete(value)
        if shape is not None:
            shapes.setdefault(value.name, shape)
    return shapes


def _concrete(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)


def run_for_shapes(path: Path, feeds: Mapping[str, Array], names: Iterable[str]) -> Shapes:
    """The shapes of the tensors ``names`` by running the model with them as extra outputs.

    For what shape inference cannot find. Empty when the model cannot be run that way (over 2 GB).
    """
    model = read_model(path, with_external_data=True)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        session = OnnxRuntime().load(model.SerializeToString())
        return {name: tuple(array.shape) for name, array in session.run(feeds).items()}
    except (ModelError, ValueError):
        return {}
