"""The signature of an ONNX model."""

from __future__ import annotations

from typing import Any

import onnx
import torch

from otgraph.errors import ModelError
from otgraph.graph.graph import Port, Signature
from otgraph.graph.onnx.tensors import TORCH_TYPES

BATCH = "batch"


def input_ports(model: onnx.ModelProto, where: str) -> tuple[Port, ...]:
    """The graph inputs that are no initializers. An unnamed dynamic axis is called ``batch`` where it is the
    first, else after its input and place.

    Raises:
        ModelError: an input is no tensor, or of a type that torch has not.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return tuple(_input(value, where) for value in model.graph.input if value.name not in stored)


def output_ports(
    model: onnx.ModelProto,
    inputs: tuple[Port, ...],
    example: tuple[torch.Tensor, ...],
    results: tuple[Any, ...],
) -> Signature:
    """The whole signature; what the file does not say of an output is taken from one run."""
    batches = {
        p.shape[0]: x.shape[0] for p, x in zip(inputs, example, strict=True) if p.shape and _free(p.shape[0])
    }
    outputs = []
    for value, result in zip(model.graph.output, results, strict=True):
        if not isinstance(result, torch.Tensor):
            raise ModelError(f"output {value.name!r} is no tensor that torch has; remove it from the model")
        shape = tuple(_output_axis(value, axis, size, batches) for axis, size in enumerate(result.shape))
        outputs.append(Port(value.name, result.dtype, shape))
    return Signature(inputs, tuple(outputs))


def _input(value: onnx.ValueInfoProto, where: str) -> Port:
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type not in TORCH_TYPES:
        raise ModelError(f"{where}: input {value.name!r} is no tensor of numbers; remove it from the model")
    if not kind.HasField("shape"):
        raise ModelError(f"{where}: input {value.name!r} has no shape, not even a rank; export it with one")
    shape = tuple(_input_axis(value.name, axis, dim) for axis, dim in enumerate(kind.shape.dim))
    return Port(value.name, TORCH_TYPES[kind.elem_type], shape)


def _input_axis(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    if dim.dim_param and dim.dim_param.strip("?"):
        return dim.dim_param
    return BATCH if axis == 0 else f"{name}_axis_{axis}"


def _output_axis(value: onnx.ValueInfoProto, axis: int, size: int, batches: dict[Any, int]) -> int | str:
    dims = value.type.tensor_type.shape.dim
    said = dims[axis] if len(dims) > axis else None
    if said is not None and said.HasField("dim_value") and said.dim_value > 0:
        return int(said.dim_value)
    if axis == 0:
        shared = [name for name, n in batches.items() if n == size]
        if shared:
            return str(shared[0])
    if said is not None and said.dim_param.strip("?"):
        return said.dim_param
    return f"{value.name}_axis_{axis}"


def _free(size: int | str) -> bool:
    return isinstance(size, str)
