"""Reading and writing ONNX files, as far as engines need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import TensorProto

from otgraph.engines.engine import Model
from otgraph.errors import ModelError
from otgraph.files import why_no_file, write_aside

UNREADABLE = (DecodeError, OSError, ValueError, onnx.checker.ValidationError)

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}


def read_onnx(path: Path, *, with_data: bool = True) -> onnx.ModelProto:
    """The model. Raises ``ModelError`` when it is no ONNX file, or its external data is not there."""
    if not path.is_file():
        raise ModelError(f"{path}: {why_no_file(path)}")
    try:
        model = onnx.load(str(path), load_external_data=with_data)
        if not model.HasField("graph"):
            raise ValueError("it holds no graph")
        return model
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{path}: not a readable ONNX file ({reason[0] if reason else type(error).__name__}); export it"
            " again or check its files"
        ) from error


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside ``path`` that hold data of the model; none where it is no readable ONNX file."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except UNREADABLE:
        return ()  # who reads the model says so
    external = (each for each in _tensors(model) if each.data_location == TensorProto.EXTERNAL)
    places = {entry.value for each in external for entry in each.external_data if entry.key == "location"}
    return tuple(path.parent / place for place in sorted(places))


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in ``message``, however deep."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in (value,) if isinstance(value, Message) else value:
            if isinstance(each, TensorProto):
                yield each
            else:
                yield from _tensors(each)


def parse_onnx(data: bytes) -> onnx.ModelProto:
    """The model whose bytes these are. Raises ``ModelError``."""
    try:
        return onnx.load_from_string(data)
    except UNREADABLE as error:
        raise ModelError(f"model in memory: not readable as ONNX ({error}); export it again") from error


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file. Raises ``ModelError`` above 2 GB, ``OutputError``."""
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{path}: would be larger than 2 GB, more than one ONNX file can hold") from error
    with write_aside(path) as aside:
        aside.write_bytes(data)


def write_model(model: Path, path: Path) -> None:
    """Copy an ONNX file, its external data taken in."""
    write_onnx(read_onnx(model), path)


def precision_of(model: Model) -> str:
    """``fp32``, ``fp16``, ``fp16 fp32``, ``int8`` …: of the weights, quantized where there are Q/DQ nodes."""
    proto = read_onnx(model, with_data=False) if isinstance(model, Path) else parse_onnx(model)
    found = {_NAMES[t.data_type] for t in proto.graph.initializer if t.data_type in _NAMES and t.dims}
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        found.add("int8")
    return " ".join(sorted(found)) or "fp32"
