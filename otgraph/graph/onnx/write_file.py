"""Writing an ONNX model, with its weights inside the file or beside it."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper

from otgraph.errors import ModelError
from otgraph.files import check_writable, write_aside
from otgraph.graph.onnx.read_file import stored_tensors

LARGEST = 2**31 - 2**24
"""Protobuf cannot hold more than 2 GB in one file; what is no number of a tensor needs less than the rest."""
_INSIDE = 1024
"""Tensors up to this many bytes stay in the model file even when the others lie beside it."""
_ALIGNMENT = 4096


def to_bytes(model: onnx.ModelProto, folder: Path | None) -> bytes:
    """The model as one piece; data that it keeps outside, in ``folder``, is taken in.

    Raises:
        ModelError: it is larger than protobuf allows.
    """
    if stored_bytes(model) > LARGEST:
        raise ModelError(
            f"{model.graph.name}: is larger than 2 GB; save it to a file, with its weights beside it"
        )
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


def write_beside(model: onnx.ModelProto, folder: Path | None, path: Path) -> None:
    """Write ``path`` and, under ``path`` + ``.data``, its large weights. Neither is ever half-written.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    data = path.with_name(f"{path.name}.data")
    check_writable(path)
    skeleton = _without_initialisers(model)
    with write_aside(path) as aside, write_aside(data) as data_aside:
        with data_aside.open("wb") as file:
            for tensor in model.graph.initializer:
                raw = _raw(tensor, folder)
                outline = skeleton.graph.initializer.add()
                if raw is None or len(raw) <= _INSIDE:
                    outline.CopyFrom(tensor)
                    _take_in(outline, folder)
                    continue
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                _copy_all_but("raw_data", tensor, outline)
                _point_to(outline, data.name, file.tell(), len(raw))
                file.write(raw)
        for tensor in stored_tensors(skeleton):
            if _location(tensor) != data.name:
                _take_in(tensor, folder)
        aside.write_bytes(skeleton.SerializeToString())


def _without_initialisers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of all but the weights, of which there may be more than memory holds twice."""
    skeleton = onnx.ModelProto()
    _copy_all_but("graph", model, skeleton)
    _copy_all_but("initializer", model.graph, skeleton.graph)
    return skeleton


def _copy_all_but(name: str, source: Message, target: Message) -> None:
    for field, value in source.ListFields():
        if field.name == name:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif hasattr(value, "MergeFrom"):  # repeated
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def check_model(model: onnx.ModelProto, folder: Path | None) -> None:
    """Run ``onnx.checker`` over a model whose external data, if any, lies in ``folder``.

    Raises:
        onnx.checker.ValidationError: it finds a fault.
    """
    if stored_bytes(model) <= LARGEST and not any(_location(tensor) for tensor in stored_tensors(model)):
        onnx.checker.check_model(model.SerializeToString())
        return
    with tempfile.TemporaryDirectory() as name:
        write_beside(model, folder, Path(name) / "model.onnx")
        onnx.checker.check_model(os.fspath(Path(name) / "model.onnx"))


def stored_bytes(model: onnx.ModelProto) -> int:
    """The bytes of all numbers of the model, wherever they lie. ``ByteSize`` would write the whole message to
    count it, at several times its size in memory."""
    return sum(_bytes(tensor) for tensor in stored_tensors(model))


def inner_bytes(model: onnx.ModelProto) -> int:
    """The bytes of the numbers that the model itself holds."""
    return sum(_bytes(tensor) for tensor in stored_tensors(model) if not _location(tensor))


def _bytes(tensor: TensorProto) -> int:
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


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


def _raw(tensor: TensorProto, folder: Path | None) -> bytes | None:
    """The bytes of a tensor, or None where they lie in typed fields."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return tensor.raw_data if tensor.HasField("raw_data") else None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with ((folder or Path()) / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset") or 0))
        length = entries.get("length")
        return file.read(int(length)) if length else file.read()


def _take_in(tensor: TensorProto, folder: Path | None) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.raw_data = _raw(tensor, folder) or b""
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def _point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
