"""The inputs and outputs that an engine can have here: numbers that NumPy knows, in device memory.

What is refused is refused by name, before a build and, for engines that others have built, at loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from otgraph.errors import ModelError

TYPES = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8)
    + (TensorProto.UINT8, TensorProto.BOOL)
)
"""float64 is left out because TensorRT would take it for float32 without a word, the others because it has
none of them or NumPy has not."""


def check_types(model: onnx.ModelProto, path: Path, engine: str) -> None:
    """Raise ``ModelError`` where an input or output of the ONNX model is of a type that cannot be fed."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if value.name not in weights and kind not in (*TYPES, TensorProto.UNDEFINED):
            named = TensorProto.DataType.Name(kind).lower()
            raise ModelError(
                f"{path}: {value.name} is {named}, which {engine} cannot take in or give out here; export the"
                " model with float32 or float16 there"
            )


def check_shape_inputs(network: Any, path: Path, engine: str) -> None:
    """Raise ``ModelError`` where the sizes of a tensor are themselves an input of the network."""
    inputs = map(network.get_input, range(network.num_inputs))
    named = [tensor.name for tensor in inputs if tensor.is_shape_tensor]
    if named:
        raise ModelError(
            f"{path}: input {', '.join(named)} holds the sizes of other tensors, which is not supported for"
            f" {engine}; make it a constant, or use --engine onnxruntime"
        )


def numpy_type(trt: Any, engine: Any, name: str, where: str) -> np.dtype[Any]:
    """The type of an engine's input or output. Raises ``ModelError`` where NumPy has none such, or where the
    tensor has to lie in the host's memory."""
    if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
        reason = f"{name} holds the sizes of other tensors, which is not supported"
        raise ModelError(f"{where}: {reason}; build it with those as constants")
    kind = engine.get_tensor_dtype(name)
    try:
        return np.dtype(trt.nptype(kind))
    except TypeError as error:
        reason = f"{name} is {getattr(kind, 'name', kind)}, for which NumPy has no type"
        raise ModelError(f"{where}: {reason}; build it with float32 or float16 there") from error
