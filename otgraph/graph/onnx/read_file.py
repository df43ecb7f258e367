"""Reading an ``.onnx`` file safely: every way it can be unusable has its message."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from otgraph.errors import ModelError
from otgraph.files import NO_TEXT, is_text, why_no_file
from otgraph.graph.onnx.check import check_readable
from otgraph.graph.onnx.stored_tensors import stored_tensors


def read_file(path: Path) -> onnx.ModelProto:
    """The model in ``path``, checked, with external data left where it is.

    Raises:
        ModelError: the file is missing, is no ONNX model, contradicts itself, or has no external data in its
            folder.
    """
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give an .onnx file")
    if not path.is_file():
        raise ModelError(f"{path}: {why_no_file(path)}")
    if not is_text(path):
        raise ModelError(f"{path}: {NO_TEXT}")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path}: is not an ONNX model or is cut short; export or download it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not model.ir_version or not model.graph.output:
        raise ModelError(f"{path}: is not an ONNX model (it has no graph outputs); export it again")
    check_readable(model, path.parent, str(path))
    return model


def external_files(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """The files in ``folder`` that hold data of ``model``."""
    external = (tensor for tensor in stored_tensors(model) if tensor.data_location == TensorProto.EXTERNAL)
    places = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return tuple((folder / place).resolve() for place in sorted(places))
