"""The ``onnx`` dialect as a backend of ONNX, so that ONNX's own tests (and its tools) can run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep, Device, DeviceType

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model


class OtgraphRep(BackendRep):
    """A model that is ready to run.

    It is imported with the first inputs it is given: they are the only ones that are known to be valid.
    ``graph`` is the import of the last run; its ``call_module`` nodes are what ONNX Runtime had to compute.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph: Graph | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, as arrays, for ``inputs``: arrays in the model's order, or by name.

        Raises:
            ModelError: an input is no array, or the model cannot be imported or run.
        """
        names = [value.name for value in self.model.graph.input]
        given = (
            [inputs[name] for name in names if name in inputs] if isinstance(inputs, dict) else list(inputs)
        )
        self.graph = import_model(self.model, example=[to_tensor(array) for array in given])
        return tuple(to_array(tensor) for tensor in self.graph(*self.graph.example))


class OtgraphBackend(Backend):
    """``prepare``, ``run_model`` and ``run_node`` on the CPU."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OtgraphRep:
        """Check ``model`` and return what runs it.

        Raises:
            ModelError: another device than the CPU is asked for.
        """
        if not cls.supports_device(device):
            raise ModelError(f"device {device}: is not supported; use CPU")
        super().prepare(model, device, **kwargs)
        return OtgraphRep(model)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """``prepare(model).run(inputs)``."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """One node as a model of its own, in the newest opset."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        names = [name for name in node.input if name]
        arrays = [inputs[name] for name in names] if isinstance(inputs, dict) else list(inputs)
        typed = [_value_info(name, array) for name, array in zip(names, arrays, strict=True)]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", typed, outputs))
        return OtgraphRep(model).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return Device(device).type == DeviceType.CPU


def _value_info(name: str, array: Any) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
    return onnx.helper.make_tensor_value_info(name, kind, np.asarray(array).shape)


def to_tensor(value: Any) -> torch.Tensor:
    """An array, or a number, as torch has it.

    Raises:
        ModelError: it is no array, or of a type that tensors of the dialect cannot have.
    """
    if not isinstance(value, (np.ndarray, np.generic, int, float, bool)):
        raise ModelError(f"an input is a {type(value).__name__}: only tensors are supported")
    array = np.array(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array.view(array.dtype.name))
    except TypeError as error:
        raise ModelError(f"an input has type {array.dtype}: the dialect has no tensors of it") from error


def to_array(tensor: torch.Tensor) -> Any:
    """A tensor as NumPy has it, or as ONNX names it where NumPy has no such type."""
    if tensor.dtype is torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.detach().numpy()


_BFLOAT16 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
