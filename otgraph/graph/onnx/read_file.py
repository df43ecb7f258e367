"""Reading an ``.onnx`` file safely: every way it can be unusable has its message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from otgraph.errors import ModelError
from otgraph.files import kind_of, why_no_file


def read_file(path: Path) -> onnx.ModelProto:
    """The model in ``path``, with external data checked and left where it is.

    Raises:
        ModelError: the file is missing, is no ONNX model, or has no external data in its folder.
    """
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give an .onnx file")
    if not path.is_file():
        raise ModelError(f"{path}: {why_no_file(path)}")
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
    check_external(model, path.parent, str(path))
    return model


def check_external(model: onnx.ModelProto, folder: Path, where: str) -> bool:
    """Whether ``model`` has external data; its files must exist, be long enough and lie in ``folder``."""
    found = False
    for tensor in stored_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        found = True
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        place = f"{where}: tensor {tensor.name!r}"
        file = _inside(folder, location)
        if file is None:
            raise ModelError(
                f"{place}: its external data path {location!r} points outside the model's folder"
            )
        if kind_of(file) is not None:
            raise ModelError(f"{place}: its external data {location!r} is {kind_of(file)}; give a file")
        if not file.is_file():
            raise ModelError(
                f"{place}: its external data file {location!r} is missing; put it next to the model"
            )
        end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
        if file.stat().st_size < end:
            raise ModelError(f"{place}: its external data file {location!r} is cut short; copy it again")
    return found


def external_files(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """The files in ``folder`` that hold data of ``model``."""
    external = (tensor for tensor in stored_tensors(model) if tensor.data_location == TensorProto.EXTERNAL)
    places = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return tuple((folder / place).resolve() for place in sorted(places))


def stored_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a file: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)


def _inside(folder: Path, location: str) -> Path | None:
    if not location or Path(location).is_absolute():
        return None
    root, file = folder.resolve(), (folder / location).resolve()
    return file if root in file.parents else None
