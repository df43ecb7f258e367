"""Writing an ONNX model, with its weights inside the file or beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx
import torch
from onnx import TensorProto

from otgraph.errors import ModelError
from otgraph.files import check_writable, through_links, write_aside
from otgraph.graph.onnx.copy_fields import copy_fields
from otgraph.graph.onnx.stored_tensors import data_bytes, stored_tensors
from otgraph.graph.onnx.tensors import flat_bytes
from otgraph.scratch import scratch_folder

LARGEST = 2**31 - 2**24
"""Protobuf holds 2 GB in one file; what is no number of a tensor needs less than the difference."""
TOO_LARGE = "{}: is larger than 2 GB; save it to a file, with its weights beside it"
_INSIDE = 1024
"""Tensors up to this many bytes stay in the model file even when the others lie beside it."""
_ALIGNMENT = 4096
_PIECE = 2**26
"""Data from outside is copied in pieces of so many bytes."""


def to_bytes(model: onnx.ModelProto, folder: Path | None) -> bytes:
    """The model as one piece; data that it keeps outside, in ``folder``, is taken in.

    Raises:
        ModelError: it is larger than protobuf allows.
    """
    if stored_bytes(model) > LARGEST:
        raise ModelError(TOO_LARGE.format(model.graph.name))
    return _with_data(model, folder).SerializeToString()


def write_inside(model: onnx.ModelProto, folder: Path | None, path: Path) -> None:
    """Write one file that holds everything; fall back to ``write_beside`` above 2 GB.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    if stored_bytes(model) > LARGEST:
        write_beside(model, folder, path)
        return
    with write_aside(path) as aside:
        aside.write_bytes(_with_data(model, folder).SerializeToString())


def beside(path: Path) -> Path:
    """Where the weights of the model file ``path`` go if not into it."""
    return path.with_name(f"{path.name}.data")


def write_beside(
    model: onnx.ModelProto, folder: Path | None, path: Path, held: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write ``path`` and, under ``path`` + ``.data``, its large weights. Neither is ever half-written.

    ``held``: the data of initializers that have none.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    check_writable(path)
    path = through_links(path)  # the data lie beside the file, not beside a link to it
    data = path.with_name(f"{path.name}.data")
    with write_aside(path) as aside, write_aside(data) as data_aside:
        skeleton = _without_initializers(model)
        for tensor in stored_tensors(skeleton):
            _take_in(tensor, folder)
        with data_aside.open("wb") as file:
            for tensor in model.graph.initializer:
                skeleton.graph.initializer.append(_put(tensor, folder, file, data.name, held or {}))
        aside.write_bytes(skeleton.SerializeToString())


def check_model(model: onnx.ModelProto, held: Container[str] = ()) -> None:
    """Run ``onnx.checker`` over a model, without its data if that is large; ``held``: the names of
    initializers that have none yet.

    Raises:
        onnx.checker.ValidationError: it finds a fault.
    """
    if (
        not held
        and stored_bytes(model) <= LARGEST
        and not any(_location(tensor) for tensor in stored_tensors(model))
    ):
        onnx.checker.check_model(model.SerializeToString())
        return
    outline = _without_initializers(model)
    for tensor in model.graph.initializer:
        large = math.prod(tensor.dims) > _INSIDE and (tensor.HasField("raw_data") or tensor.name in held)
        outline.graph.initializer.append(_bare(tensor, "weights", 0, 1) if large else tensor)
    for tensor in stored_tensors(outline):
        if _location(tensor):
            _point_to(tensor, "weights", 0, 1)
    with scratch_folder() as name:  # the checker asks whether the file is there, not what is in it
        (Path(name) / "weights").write_bytes(b"\0")
        (Path(name) / "model.onnx").write_bytes(outline.SerializeToString())
        onnx.checker.check_model(os.fspath(Path(name) / "model.onnx"))


def stored_bytes(model: onnx.ModelProto) -> int:
    """The bytes of all numbers of the model, wherever they lie. ``ByteSize`` would write the whole message to
    count it, at several times its size in memory."""
    return sum(data_bytes(tensor) for tensor in stored_tensors(model))


def inner_bytes(model: onnx.ModelProto) -> int:
    """The bytes of the numbers that the model itself holds."""
    return sum(data_bytes(tensor) for tensor in stored_tensors(model) if not _location(tensor))


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    skeleton = onnx.ModelProto()
    copy_fields(model, skeleton, {"graph"})
    copy_fields(model.graph, skeleton.graph, {"initializer"})
    return skeleton


def _bare(tensor: TensorProto, location: str, offset: int, length: int) -> TensorProto:
    """``tensor`` with its data in the file ``location``."""
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.metadata_props.extend(tensor.metadata_props)
    if tensor.HasField("doc_string"):
        bare.doc_string = tensor.doc_string
    _point_to(bare, location, offset, length)
    return bare


def _put(
    tensor: TensorProto, folder: Path | None, file: BinaryIO, name: str, held: Mapping[str, torch.Tensor]
) -> TensorProto:
    """``tensor`` as the model file has it: data that is large is added to ``file``, which is ``name``."""
    outside = tensor.data_location == TensorProto.EXTERNAL
    raw = flat_bytes(held[tensor.name]).data if tensor.name in held else memoryview(tensor.raw_data)
    length = data_bytes(tensor) if outside else raw.nbytes
    if length <= _INSIDE:
        held_inside = TensorProto()
        held_inside.CopyFrom(tensor)
        _take_in(held_inside, folder)  # its file may have the name of the new one, and other data in it
        return held_inside
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    placed = _bare(tensor, name, file.tell(), length)
    if outside:
        _copy_external(tensor, folder, file, length)
    else:
        file.write(raw)
    return placed


def _copy_external(tensor: TensorProto, folder: Path | None, file: BinaryIO, length: int) -> None:
    with ((folder or Path()) / _location(tensor)).open("rb") as source:
        source.seek(_offset(tensor))
        while length > 0:
            piece = source.read(min(length, _PIECE))
            if not piece:
                raise OSError(f"{source.name} ends too early")
            file.write(piece)
            length -= len(piece)


def _with_data(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    if not any(_location(tensor) for tensor in stored_tensors(model)):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in stored_tensors(whole):
        _take_in(tensor, folder)
    return whole


def _location(tensor: TensorProto) -> str:
    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _entry(tensor: TensorProto, key: str) -> int:
    return int(next((entry.value for entry in tensor.external_data if entry.key == key), "") or 0)


def _offset(tensor: TensorProto) -> int:
    return _entry(tensor, "offset")


def _take_in(tensor: TensorProto, folder: Path | None) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        with ((folder or Path()) / _location(tensor)).open("rb") as file:
            file.seek(_offset(tensor))
            tensor.raw_data = file.read(data_bytes(tensor))
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def _point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
