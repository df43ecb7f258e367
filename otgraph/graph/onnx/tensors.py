"""ONNX tensors ⇄ torch tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import SparseTensorProto, TensorProto

from otgraph.errors import ModelError

TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BFLOAT16: torch.bfloat16,
}
ONNX_TYPES = {dtype: number for number, dtype in TORCH_TYPES.items()}


def to_torch(proto: TensorProto, folder: Path | None = None) -> torch.Tensor:
    """A copy of an ONNX tensor; ``folder`` is where its external data lies. Its type is in TORCH_TYPES."""
    if proto.data_location == TensorProto.EXTERNAL:
        array = _read_external(proto, folder or Path())
    else:
        array = np.array(onnx.numpy_helper.to_array(proto))
    dtype = TORCH_TYPES[proto.data_type]
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).reshape(tuple(proto.dims))
    return torch.from_numpy(array).reshape(tuple(proto.dims))


def _read_external(proto: TensorProto, folder: Path) -> npt.NDArray[Any]:
    """Read at once and held once: a weight may be larger than what is free a second time."""
    said = {entry.key: entry.value for entry in proto.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    count, offset = math.prod(proto.dims), int(said.get("offset") or 0)
    return np.fromfile(folder / said["location"], dtype, count, offset=offset)


def sparse_to_torch(proto: SparseTensorProto, folder: Path | None = None) -> torch.Tensor:
    """The dense tensor that a sparse one means. Its indices are of flat positions, or one row per value.

    Raises:
        ModelError: an index lies outside the dims.
    """
    values, indices = to_torch(proto.values, folder), to_torch(proto.indices, folder)
    sizes = torch.tensor([math.prod(proto.dims)] if indices.dim() == 1 else list(proto.dims))
    if bool(((indices < 0) | (indices >= sizes)).any()):
        raise ModelError(
            f"sparse tensor {proto.values.name!r}: an index lies outside its dims {list(proto.dims)}; export"
            " the model again"
        )
    dense = torch.zeros(tuple(proto.dims), dtype=values.dtype)
    places = (indices,) if indices.dim() == 1 else tuple(indices.t())
    (dense.reshape(-1) if indices.dim() == 1 else dense)[places] = values
    return dense


def from_torch(tensor: torch.Tensor, name: str) -> TensorProto:
    """The ONNX tensor with the same bytes."""
    plain = tensor.detach().cpu()
    proto = TensorProto(name=name, data_type=ONNX_TYPES[plain.dtype], dims=list(plain.shape))
    proto.raw_data = flat_bytes(plain).tobytes()
    return proto


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal type, shape and bytes (so NaN equals the same NaN)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(torch.from_numpy(flat_bytes(a)), torch.from_numpy(flat_bytes(b)))


def flat_bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor as ONNX stores them; not copied where it lies contiguously on the processor."""
    plain = tensor.detach().cpu()
    plain = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain
    return np.ascontiguousarray(plain.numpy()).reshape(-1).view(np.uint8)


def put_tensor(root: torch.nn.Module, target: str, tensor: torch.Tensor) -> None:
    """Store a weight under a dotted name: a parameter without gradient if it is floating, else a buffer."""
    *owners, leaf = target.split(".")
    for owner in owners:
        if owner not in root._modules:
            root.add_module(owner, torch.nn.Module())
        root = root.get_submodule(owner)
    if tensor.is_floating_point():
        root.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(leaf, tensor)
