"""ONNX Runtime on the CPU, the embedded default engine, and what its other providers share with it.

Graph optimization is ALL: anything less leaves out the blocked NCHWc layout, which costs up to 2x. Spinning
is off: it burns the other cores' time and makes process CPU time meaningless.
"""

from __future__ import annotations

import importlib
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import onnxruntime as ort

from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.engines.artifact import BuildOptions, Built
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.onnx_file import precision_of, write_model
from otgraph.engines.onnxruntime_profile import profile_session
from otgraph.engines.processor import processor
from otgraph.errors import EngineMissing, ModelError, UsageError
from otgraph.files import NO_TEXT, is_text, why_no_file

ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
"""ONNX Runtime's exceptions share no base of their own, so they are listed as its module lists them."""

PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")

DTYPES: Mapping[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


Settings = Mapping[str, Mapping[str, str]]
"""Options of execution providers, by the provider's name."""


class Provider(Engine):
    """One execution provider of the installed ``onnxruntime`` package, with the CPU's for what it does not
    take."""

    providers: ClassVar[tuple[str, ...]]

    def load(self, model: Model, *, threads: int = 1) -> OnnxRuntimeSession:
        if threads < 1:
            raise ModelError(f"threads={threads}: give at least 1")
        return OnnxRuntimeSession(model, threads, self.providers)

    def build(self, model: Path, output: Path, options: BuildOptions) -> Built:
        """The artifact is the ONNX file itself, which is tried first; its axes stay as they are."""
        options.refuse(self.name, "shapes", "compute_capabilities", "tf32", "timing_cache")
        if output.suffix != ".onnx":
            raise UsageError(f"{output}: engine '{self.name}' writes ONNX; give a name that ends in .onnx")
        started = time.perf_counter()
        self.load(model, threads=options.threads)
        write_model(model, output)
        return Built(time.perf_counter() - started, (output,))


@final
class OnnxRuntime(Provider):
    """The CPU execution provider."""

    name = "onnxruntime"
    providers = ("CPUExecutionProvider",)

    def unavailable(self) -> str | None:
        if "CPUExecutionProvider" in ort.get_available_providers():
            return None
        return "this build of ONNX Runtime has no CPU provider"

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": ort.__version__,
            "device": "CPU",
            "processor": processor(),
            "machine": platform.machine(),
            "options": "graph optimization ALL, spinning off",
        }


class OnnxRuntimeSession(Session):
    """One ``InferenceSession``. ``model`` stays referenced, so that ``profile`` can load it once more."""

    def __init__(
        self, model: Model, threads: int, providers: Sequence[str], settings: Settings | None = None
    ) -> None:
        self._model = model
        self._threads = threads
        self._providers = [(name, dict((settings or {}).get(name, {}))) for name in providers]
        self._where = str(model) if isinstance(model, Path) else "model in memory"
        if isinstance(model, Path) and not model.is_file():
            what = "is a folder; give an .onnx file" if model.is_dir() else why_no_file(model)
            raise ModelError(f"{model}: {what}")
        if isinstance(model, Path) and not is_text(model):
            raise ModelError(f"{model}: {NO_TEXT}")
        self._session = self._create(session_options(threads))
        try:
            self.inputs = tuple(self._spec(value) for value in self._session.get_inputs())
            self.outputs = tuple(self._spec(value) for value in self._session.get_outputs())
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._where}: has a name that is not UTF-8; export it again") from error
        self._names = [spec.name for spec in self.outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values: list[Any] = list(self._session.run(self._names, dict(feeds)))
        except ORT_ERRORS as error:
            raise ModelError(self._cannot_run(error)) from error
        return dict(zip(self._names, values, strict=True))

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        try:
            return profile_session(self._create, session_options(self._threads), feeds, runs)
        except ORT_ERRORS as error:
            raise ModelError(self._cannot_run(error)) from error

    def describe(self) -> dict[str, str]:
        precision = precision_of(self._model)
        return {**super().describe(), "threads": str(self._threads), "precision": precision}

    def _cannot_run(self, error: Exception) -> str:
        reason = f"onnxruntime cannot run it: {first_line(error)}"
        return f"{self._where}: {reason}; check that the model takes such inputs"

    def _create(self, options: ort.SessionOptions) -> ort.InferenceSession:
        source = str(self._model) if isinstance(self._model, Path) else self._model
        try:
            session = ort.InferenceSession(source, options, providers=self._providers)
        except ORT_ERRORS as error:
            reason = f"onnxruntime cannot load it: {first_line(error)}"
            raise ModelError(f"{self._where}: {reason}; export it again or check its files") from error
        wanted, _ = self._providers[0]
        if session.get_providers()[0] != wanted:  # it falls back to the CPU without an error
            raise EngineMissing(
                f"{wanted}: onnxruntime could not start it and would use "
                f"{session.get_providers()[0]}; check the GPU's driver, CUDA and cuDNN"
            )
        return session

    def _spec(self, value: Any) -> TensorSpec:
        dtype = DTYPES.get(value.type)
        if dtype is None:
            what = f"{value.name}: has type {value.type}, which is not supported"
            raise ModelError(f"{self._where}: {what}; export it with tensors of numbers")
        shape = tuple("?" if size is None else size for size in value.shape or ())
        return TensorSpec(value.name, np.dtype(dtype), shape)


def session_options(threads: int) -> ort.SessionOptions:
    """The options that every measurement and every comparison uses."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors come back as exceptions; nothing is written to stderr
    return options


def first_line(error: Exception) -> str:
    """The first line of the engine's message, without its status code; the rest repeats the model's nodes."""
    lines = PREFIX.sub("", str(error).strip()).splitlines()
    return lines[0].strip() if lines else type(error).__name__
