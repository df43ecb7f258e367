"""Whether ONNX Runtime, the default engine, takes a model; one that it does not may be valid all the same."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from otgraph.graph.onnx.copy_fields import copy_fields
from otgraph.graph.onnx.opaque import ORT_ERRORS

_SMALL = 1024
"""Initializers of up to this many entries are asked about with their values, which some operators need."""
_STATUS = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:|This is an invalid model\. "
)


@dataclass(frozen=True)
class Written:
    """A model that is about to be written: ``write`` does so to a path, ``held`` are the names of its
    initializers whose data it does not hold itself."""

    model: onnx.ModelProto
    write: Callable[[Path], None]
    held: Container[str] = ()

    def fault(self) -> str | None:
        """Why ONNX Runtime does not load it; None where it does. Asked without the weights first, which is
        cheap; an operator may insist on a weight that is stored, so a fault is confirmed on a whole file."""
        if outline_fault(self.model, self.held) is None:
            return None
        with tempfile.TemporaryDirectory(prefix="otgraph-") as folder:
            self.write(Path(folder) / "model.onnx")
            return _fault(str(Path(folder) / "model.onnx"))


def outline_fault(model: onnx.ModelProto, held: Container[str] = ()) -> str | None:
    """Why ONNX Runtime does not load ``model`` with its large weights as inputs; None where it does."""
    outline = onnx.ModelProto()
    copy_fields(model, outline, {"graph"})
    copy_fields(model.graph, outline.graph, {"initializer"})
    known = {value.name for value in outline.graph.input}
    for tensor in model.graph.initializer:
        elsewhere = tensor.name in held or tensor.data_location == TensorProto.EXTERNAL
        if not elsewhere and math.prod(tensor.dims) <= _SMALL:
            outline.graph.initializer.append(tensor)
        elif tensor.name not in known:
            outline.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return _fault(outline.SerializeToString())


def what_to_do(fault: str) -> str:
    """What helps against a fault that ``Written.fault`` gave."""
    if "is not a registered function/op" in fault:
        return "run it where the library of that operator is, or replace the node"
    return "take an engine that does, or convert the network to float32 first"


def _fault(source: str | bytes) -> str | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return _STATUS.sub("", lines[0]).strip().rstrip(".")
    return None
