"""The engines by name. An explicit, lazy table: an engine's package is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otgraph.engines.engine import Engine
from otgraph.errors import EngineMissing, ModelError, UsageError
from otgraph.files import why_no_file


@dataclass(frozen=True)
class Entry:
    """Where an engine's class is, and the packages that it needs (the extra of its name has them too)."""

    target: str
    packages: str


ENGINES: Mapping[str, Entry] = {
    "onnxruntime": Entry("otgraph.engines.onnxruntime:OnnxRuntime", "onnxruntime"),
    "onnxruntime-cuda": Entry("otgraph.engines.onnxruntime_gpu:OnnxRuntimeCuda", "onnxruntime-gpu"),
    "onnxruntime-tensorrt": Entry("otgraph.engines.onnxruntime_gpu:OnnxRuntimeTensorRt", "onnxruntime-gpu"),
    "openvino": Entry("otgraph.engines.openvino:OpenVino", "openvino"),
    "torch": Entry("otgraph.engines.pytorch:TorchEager", "torch"),
    "torch-compile": Entry("otgraph.engines.pytorch_compile:TorchCompile", "torch"),
    "tensorrt": Entry("otgraph.engines.tensorrt.engine:TensorRt", "tensorrt cuda-bindings"),
    "tensorrt-rtx": Entry("otgraph.engines.tensorrt.engine:TensorRtRtx", "tensorrt-rtx cuda-bindings"),
}

DEFAULT = "onnxruntime"

RTX_MAGIC = b"vtrt"
"""The first bytes of the engines that TensorRT for RTX writes."""

ONNX_MAGIC = b"\x08"
"""The first byte of an ONNX file: the tag of its ``ir_version``."""


@dataclass(frozen=True)
class Availability:
    """Whether an engine runs and builds here: None, or the reason why not. ``device``: its description."""

    name: str
    runs: str | None
    builds: str | None
    device: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "device": dict(self.device)}


def get_engine(name: str, table: Mapping[str, Entry] = ENGINES) -> Engine:
    """The engine called ``name``, which can run models here.

    Raises ``UsageError`` for a name that is not in the table and ``EngineMissing`` (exit code 3), naming
    what to install, when its package or device is not here.
    """
    return _checked(name, table, Engine.unavailable.__name__)


def get_builder(name: str, table: Mapping[str, Entry] = ENGINES) -> Engine:
    """The engine called ``name``, which can build artifacts here; it need not be able to run them. Raises as
    ``get_engine`` does."""
    return _checked(name, table, Engine.cannot_build.__name__)


def survey(table: Mapping[str, Entry] = ENGINES) -> tuple[Availability, ...]:
    """Every engine of the table, and whether it is usable here."""
    return tuple(_availability(name, table) for name in table)


def engine_of(path: Path) -> str:
    """The engine that a file is for: by its suffix, ``DEFAULT`` for an ONNX file.

    Raises:
        UsageError: no engine writes such files. ModelError: there is no such file.
    """
    if path.suffix == ".onnx":
        return DEFAULT
    if path.suffix == ".xml":
        return "openvino"
    if path.suffix in (".engine", ".plan", ".trt"):
        if not path.is_file():
            raise ModelError(f"{path}: {why_no_file(path)}")
        first = _first_bytes(path)
        if first.startswith(ONNX_MAGIC):
            raise UsageError(f"{path}: is an ONNX model, no engine; call it .onnx")
        return "tensorrt-rtx" if first == RTX_MAGIC else "tensorrt"
    raise UsageError(f"{path}: is no .onnx, .xml, .engine, .plan or .trt file; give one that an engine loads")


def engine_for(path: Path, asked: str | None, *, cuda_graph: bool = False) -> Engine:
    """The engine that is to run ``path``: the one ``asked`` for where it takes such files, else the file's
    own. Raises as ``get_engine`` and ``engine_of`` do."""
    own = engine_of(path) if asked is None or path.suffix != ".onnx" else asked
    engine = get_engine(asked if asked is not None and _takes(asked, own) else own)
    return engine.with_cuda_graph() if cuda_graph else engine


def check_asked(asked: str | None, engines: Sequence[Engine], paths: Sequence[Path]) -> None:
    """Raise ``UsageError`` where an engine was asked for that runs none of the files."""
    if asked is not None and asked not in {engine.name for engine in engines}:
        own = ", ".join(f"{path} is for {engine.name}" for path, engine in zip(paths, engines, strict=True))
        raise UsageError(f"engine '{asked}': runs none of the files ({own}); leave it out")


def _takes(asked: str, own: str) -> bool:
    """TensorRT's files do not always tell which of the two editions wrote them."""
    return asked == own or {asked, own} <= {"tensorrt", "tensorrt-rtx"}


def is_model_file(text: str) -> bool:
    """Whether an engine can load MODEL by itself, without a graph having to be made of it."""
    return Path(text).suffix in (".onnx", ".xml", ".engine", ".plan", ".trt")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(RTX_MAGIC))
    except OSError:
        return b""  # whoever loads it says what is wrong with it


def _checked(name: str, table: Mapping[str, Entry], question: str) -> Engine:
    entry = table.get(name)
    if entry is None:
        raise UsageError(f"engine '{name}': unknown; choose one of: {', '.join(sorted(table))}")
    engine = _make(name, entry)
    reason = getattr(engine, question)()
    if reason is not None:
        raise EngineMissing(f"engine '{name}': not available here ({reason})")
    return engine


def _make(name: str, entry: Entry) -> Engine:
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        raise EngineMissing(
            f"engine '{name}': not available here ({error}); pip install {entry.packages}"
        ) from error


def _availability(name: str, table: Mapping[str, Entry]) -> Availability:
    try:
        engine = _make(name, table[name])
    except EngineMissing as error:
        reason = str(error).removeprefix(f"engine '{name}': not available here ")
        return Availability(name, reason, reason, {})
    runs, builds = engine.unavailable(), engine.cannot_build()
    return Availability(name, runs, builds, engine.describe() if runs is None else {})
