"""TensorRT and TensorRT for RTX as engines. Which of the two is only the name of a module."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

from otgraph.engines.artifact import BuildOptions, Built, Layer
from otgraph.engines.engine import Engine, Model, Session
from otgraph.engines.gpu_state import gpu_state
from otgraph.engines.tensorrt.build import build_file, build_plan
from otgraph.engines.tensorrt.cuda import Cuda
from otgraph.engines.tensorrt.cuda_runtime import CudaRuntime
from otgraph.engines.tensorrt.features import read_features
from otgraph.engines.tensorrt.inspector import engine_layers
from otgraph.engines.tensorrt.launcher import Launch
from otgraph.engines.tensorrt.runtime import cache_file, deserialize, make_context, read_cache, write_cache
from otgraph.engines.tensorrt.session import TensorRtSession
from otgraph.errors import EngineMissing, ModelError
from otgraph.files import cache_folder, why_no_file
from otgraph.scratch import scratch_folder

PLANS = 4
"""So many engines built of ONNX files are kept in memory."""

SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(eq=False)
class _Tensorrt(Engine):
    """``trt``: the module, or a stand-in. ``cuda``: None until something is run. ``capture``: CUDA graphs."""

    module: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    trt: Any = None
    cuda: Cuda | None = None
    capture: bool = False
    kernels: Path | None = field(default_factory=cache_folder)
    _plans: OrderedDict[tuple[object, ...], bytes] = field(default_factory=OrderedDict[Any, bytes])

    def __post_init__(self) -> None:
        self.trt = self.trt or importlib.import_module(self.module)
        self.features = read_features(self.trt)

    def unavailable(self) -> str | None:
        try:
            return self._cuda().unavailable()
        except ImportError as error:
            return f"{error}; pip install cuda-bindings"

    def cannot_build(self) -> str | None:
        return None if self.features.builds_ahead else self.unavailable()

    def load(self, model: Model, *, threads: int = 1) -> Session:
        where = str(model) if isinstance(model, Path) else "model in memory"
        data = self._plan(model)
        loaded = deserialize(self.trt, data, where, self.name, self.unavailable)
        cuda = self._cuda()
        kernels = cache_file(self.kernels, data, sorted(self.describe().values()))
        known = None if kernels is None else read_cache(kernels)
        context, cache = make_context(loaded, self.features, where, capture=self.capture, cached=known)
        session = TensorRtSession(self.trt, cuda, loaded.engine, context, where, self._launch())
        session.keep(loaded.runtime)
        if cache is not None and kernels is not None:
            session.when_compiled(lambda: write_cache(kernels, cache()))
        return session

    def build(self, model: Path, output: Path, options: BuildOptions) -> Built:
        return build_file(self.trt, self.name, model, output, options, self._layers)

    def describe(self) -> dict[str, str]:
        gpu = self._cuda().gpu()
        return {
            "engine": self.name,
            "version": str(self.trt.__version__),
            "device": gpu.name,
            "compute_capability": str(gpu.compute_capability),
            "driver": gpu.driver,
            "cuda": gpu.runtime,
            "options": self._launch(),
            **({} if self.features.eager_kernels is None else {"kernels_for_dynamic_shapes": "EAGER"}),
        }

    def state(self) -> dict[str, float]:
        return gpu_state(self._cuda().gpu().bus)

    def with_cuda_graph(self) -> Engine:
        return type(self)(self.trt, self.cuda, capture=True, kernels=self.kernels)

    def _launch(self) -> Launch:
        if not self.capture:
            return "kernel by kernel"
        by_strategy = self.features.runtime_cache and self.features.whole_graph_capture is not None
        return "CUDA graph, captured by TensorRT" if by_strategy else "CUDA graph"

    def _cuda(self) -> Cuda:
        if self.cuda is None:
            self.cuda = CudaRuntime()
        return self.cuda

    def _plan(self, model: Model) -> bytes:
        """The bytes of an engine file, or of the engine built of an ONNX model."""
        if isinstance(model, Path) and model.suffix in self.suffixes:
            if not model.is_file():
                raise ModelError(f"{model}: {why_no_file(model)}")
            return model.read_bytes()
        if isinstance(model, Path):
            return self._built(model)
        with scratch_folder() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            return build_plan(self.trt, self.name, path, BuildOptions()).data

    def _built(self, model: Path) -> bytes:
        """A measurement loads the same file several times, and a build may take minutes."""
        if not model.is_file():
            raise ModelError(f"{model}: {why_no_file(model)}")
        state = model.stat()
        key = (model.resolve(), state.st_mtime_ns, state.st_size)
        if key not in self._plans:
            self._plans[key] = build_plan(self.trt, self.name, model, BuildOptions()).data
            if len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        return self._plans[key]

    def _layers(self, data: bytes) -> tuple[Layer, ...]:
        reason = self.unavailable()
        if reason is not None:
            raise EngineMissing(reason)
        loaded = deserialize(self.trt, data, "the engine", self.name, self.unavailable)
        return engine_layers(self.trt, loaded.engine)


@final
class TensorRt(_Tensorrt):
    """NVIDIA TensorRT 10 or 11: builds and runs on an NVIDIA GPU."""

    name = "tensorrt"
    module = "tensorrt"


@final
class TensorRtRtx(_Tensorrt):
    """TensorRT for RTX: builds without a GPU, for consumer GPUs; runs on them."""

    name = "tensorrt-rtx"
    module = "tensorrt_rtx"
