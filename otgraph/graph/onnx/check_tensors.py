"""What a stored tensor says of itself, held against the data that are there: before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import onnx
from onnx import SparseTensorProto, TensorProto, helper

from otgraph.errors import ModelError
from otgraph.files import kind_of
from otgraph.graph.onnx.bounds import LARGEST_VALUE, in_words
from otgraph.graph.onnx.stored_tensors import bits_each, data_bytes, stored_tensors
from otgraph.graph.onnx.subgraphs import all_graphs

_MOST = 2**48
"""More elements than any file holds; below it no size overflows."""
_AGAIN = "export or download the model again"


def check_tensors(model: onnx.ModelProto, folder: Path, where: str) -> None:
    """Types that exist, dims that are sizes, and as many numbers as they ask for, in the file or beside it.

    Raises:
        ModelError: names the tensor that is not so, or whose external file is missing, too short or outside
            ``folder``.
    """
    for tensor in stored_tensors(model):
        place = f"{where}: tensor {tensor.name!r}"
        _check_type(tensor, place)
        _check_dims(tensor.dims, place)
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(tensor, folder, place)
        else:
            _check_length(tensor, place)
    for graph in all_graphs(model):
        for sparse in graph.sparse_initializer:
            _check_sparse(sparse, f"{where}: sparse tensor {sparse.values.name!r}")


def _check_type(tensor: TensorProto, place: str) -> None:
    if tensor.data_type not in helper.get_all_tensor_dtypes():
        raise ModelError(f"{place}: its type {tensor.data_type} is none of ONNX's; {_AGAIN}")
    if tensor.HasField("segment"):
        raise ModelError(f"{place}: is stored in segments, which nothing reads; store it whole")


def _check_dims(dims: object, place: str) -> None:
    sizes = list(dims)  # type: ignore[call-overload]
    if any(size < 0 for size in sizes):
        raise ModelError(f"{place}: its dims {sizes} hold a negative size; {_AGAIN}")
    if math.prod(max(size, 1) for size in sizes) > _MOST:
        raise ModelError(f"{place}: its dims {sizes} are larger than any file; {_AGAIN}")


def _check_length(tensor: TensorProto, place: str) -> None:
    wanted = data_bytes(tensor)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != wanted or tensor.data_type == TensorProto.STRING:
            raise ModelError(
                f"{place}: holds {len(tensor.raw_data)} bytes of data where its type and dims"
                f" {list(tensor.dims)} mean {wanted}; {_AGAIN}"
            )
        return
    have = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    wanted = _entries(tensor)
    if have != wanted:
        raise ModelError(
            f"{place}: holds {have} numbers where its dims {list(tensor.dims)} mean {wanted}; {_AGAIN}"
        )


def _entries(tensor: TensorProto) -> int:
    """How many entries the field that is named after the type must have."""
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * math.prod(tensor.dims)
    packed = bits_each(tensor.data_type) in (2, 4)
    return data_bytes(tensor) if packed else math.prod(tensor.dims)


def _check_external(tensor: TensorProto, folder: Path, place: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = _inside(folder, location)
    if file is None:
        raise ModelError(f"{place}: its external data path {location!r} points outside the model's folder")
    name = f"external data file {location!r}"
    if kind_of(file) is not None:
        raise ModelError(f"{place}: its external data {location!r} is {kind_of(file)}; give a file")
    if not file.is_file():
        raise ModelError(f"{place}: its {name} is missing; put it next to the model")
    if not os.access(file, os.R_OK):
        raise ModelError(f"{place}: its {name} cannot be read; check its permissions")
    offset, length = (_number(entries.get(key), key, place) for key in ("offset", "length"))
    wanted, have = data_bytes(tensor), file.stat().st_size
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{place}: is text in an external file, which nothing reads; store it in the model")
    if have < offset + max(length, wanted):
        raise ModelError(
            f"{place}: its {name} is cut short (it has {have} bytes, {offset + max(length, wanted)} are"
            " needed); copy it again"
        )
    if length not in (0, wanted):
        raise ModelError(
            f"{place}: has {length} bytes of external data where its type and dims {list(tensor.dims)} mean"
            f" {wanted}; {_AGAIN}"
        )


def _number(text: str | None, key: str, place: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{place}: the {key} {text!r} of its external data is no number of bytes; {_AGAIN}")
    return int(text or 0)


def _inside(folder: Path, location: str) -> Path | None:
    if not location or "\0" in location or Path(location).is_absolute():
        return None
    try:
        root, file = folder.resolve(), (folder / location).resolve()
        file.is_file()  # the system may refuse the name
    except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
        return None
    return file if root in file.parents else None


def _check_sparse(sparse: SparseTensorProto, place: str) -> None:
    """Values and indices that fit each other, and a dense form that can be held."""
    _check_dims(sparse.dims, place)
    dense = math.prod(sparse.dims) * bits_each(sparse.values.data_type) // 8
    if dense > LARGEST_VALUE:
        raise ModelError(f"{place}: would be {in_words(dense)} as a dense tensor; leave it out of the model")
    count, rank = list(sparse.values.dims), len(sparse.dims)
    if (
        len(count) != 1
        or list(sparse.indices.dims) not in (count, [*count, rank])
        or sparse.indices.data_type != TensorProto.INT64
    ):
        raise ModelError(f"{place}: its indices do not fit its {rank} dims and its values; {_AGAIN}")
