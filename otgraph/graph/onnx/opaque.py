"""``OrtOp``: one ONNX node that has no torch form, run through an ONNX Runtime session of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state
import torch
from onnx import TensorProto

from otgraph.errors import ModelError
from otgraph.graph.onnx.header import plain_domain
from otgraph.graph.onnx.tensors import ONNX_TYPES

Value = Any
"""A tensor; a NumPy array of strings or of a type torch has not; a list of those (an ONNX sequence)."""

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(e for e in vars(ort_state).values() if isinstance(e, type) and issubclass(e, Exception)),
    ValueError,
    RuntimeError,
)
"""What a session raises; its exceptions have no common base but ``Exception``."""


class UnknownOperator(ModelError):
    """ONNX Runtime has no such operator, or none for these types; ``reason`` is what it says."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


_UNKNOWN = re.compile(
    "not a registered function/op|No [Oo]p registered|No opset import for domain"
    "|Could not find an implementation"
)


class OrtOp(torch.nn.Module):
    """One node as a module. It has no gradient, and that it is called as a module is how analyses know it.

    Args:
        node: the ONNX node.
        captured: outer values its subgraphs read; they follow the node's inputs among the arguments.
        embedded: initializers that torch cannot hold (strings, 4-bit integers); their arguments are None.
        model: the file it comes from, for its opsets and functions.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        model: onnx.ModelProto,
        captured: Sequence[str] = (),
        embedded: Mapping[str, TensorProto] | None = None,
    ) -> None:
        super().__init__()
        self.op_type, self.node_name = node.op_type, node.name
        self._title = f"{node.domain}.{node.op_type}" if plain_domain(node.domain) else node.op_type
        self._names = (*node.input, *captured)
        self._outputs = tuple(node.output)
        self._template = _template(node, model, embedded or {}).SerializeToString()
        self._session: ort.InferenceSession | None = None
        self._types: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None, "_types": ()}

    def extra_repr(self) -> str:
        return f"{self.op_type} {self.node_name!r}"

    def forward(self, *values: Value) -> tuple[Value, ...]:
        """One value per input of the node, then the captured ones; always a tuple, None for a missing output.

        Raises:
            ModelError: ONNX Runtime cannot run the node; ``UnknownOperator`` where it cannot whatever its
                inputs hold.
        """
        fed = {
            name: value
            for name, value in zip(self._names, values, strict=False)
            if name and value is not None
        }
        try:
            types = {name: _type_of(value) for name, value in fed.items()}
            key = tuple((name, kind.SerializeToString(deterministic=True)) for name, kind in types.items())
            if self._session is None or key != self._types:
                self._session, self._types = self._open(types), key
            named = [name for name in self._outputs if name]
            arrays = iter(self._session.run(named, {name: _to_numpy(value) for name, value in fed.items()}))
        except ORT_ERRORS as error:
            if _UNKNOWN.search(str(error)):
                raise UnknownOperator(self._message(error), _first_line(error)) from error
            raise ModelError(self._message(error)) from error
        return tuple(_from_numpy(next(arrays)) if name else None for name in self._outputs)

    def _open(self, types: Mapping[str, onnx.TypeProto]) -> ort.InferenceSession:
        model = onnx.ModelProto.FromString(self._template)
        for name, kind in types.items():
            model.graph.input.append(onnx.ValueInfoProto(name=name, type=kind))
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _message(self, error: Exception) -> str:
        name = f"node {self.node_name!r}" if self.node_name else f"the node that makes {self._outputs[0]!r}"
        what = f"{self._title} has no torch form and ONNX Runtime cannot run it"
        return f"{name}: {what} ({_first_line(error)}); replace it"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _template(
    node: onnx.NodeProto, model: onnx.ModelProto, embedded: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    """The one-node model, without the types of its inputs: those are known when it first runs."""
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.GraphProto(
        name=node.op_type, node=[node], output=outputs, initializer=list(embedded.values())
    )
    template = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
    template.opset_import.extend(model.opset_import)
    template.functions.extend(model.functions)
    return template


def _type_of(value: Value) -> onnx.TypeProto:
    if isinstance(value, list):
        first = value[0] if value else np.zeros(0, np.float32)
        return onnx.helper.make_sequence_type_proto(_type_of(first))
    if isinstance(value, torch.Tensor):
        if value.dtype not in ONNX_TYPES:
            raise ValueError(f"values of type {value.dtype}")
        return _any_shape(ONNX_TYPES[value.dtype])
    if value.dtype.kind in "OUS":
        return _any_shape(TensorProto.STRING)
    return _any_shape(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _any_shape(number: int) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(number, None)


def _to_numpy(value: Value) -> Any:
    if isinstance(value, list):
        return [_to_numpy(item) for item in value]
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:
            raise ValueError("values of type bfloat16")
        return value.detach().cpu().numpy()
    return value


def _from_numpy(value: Any) -> Value:
    if isinstance(value, list):
        return [_from_numpy(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value).view(value.dtype.name))  # of NumPy's two uint64
    return value
