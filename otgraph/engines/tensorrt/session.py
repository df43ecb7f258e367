"""Running a serialized engine: shapes, buffers and copies. Everything CUDA goes through ``Cuda``.

What is timed is the device's work between two events. Inputs are copied up once before; copies are the
application's own business, and on a GPU they can be hidden behind the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.engines.engine import NodeTime, Session, TimedBy
from otgraph.engines.tensorrt.cuda import Cuda, new_array
from otgraph.engines.tensorrt.interface import numpy_type
from otgraph.engines.tensorrt.launcher import Launch, Launcher
from otgraph.errors import EngineMissing, ModelError

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Buffer:
    """Device memory of one input or output."""

    address: int
    size: int


@final
class TensorRtSession(Session):
    """One execution context with its stream and buffers.

    ``engine``, ``context``: TensorRT's. ``where``: the file, for messages. Raises ``ModelError`` for an input
    or output that cannot be fed or read here.
    """

    timed_by: ClassVar[TimedBy] = "device"

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, context: Any, where: str, launch: Launch) -> None:
        self._trt, self._cuda, self._engine, self._context = trt, cuda, engine, context
        self._where = where
        self._owner: object = None
        self._compiled: Callable[[], None] | None = None
        self._seen: set[Shapes] = set()
        self._shapes: Shapes | None = None
        self._buffers: dict[str, Buffer] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        specs = {name: self._spec(name) for name in names}
        inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = tuple(spec for name, spec in specs.items() if name in inputs)
        self.outputs = tuple(spec for name, spec in specs.items() if name not in inputs)
        self._launcher = Launcher(cuda, context, where, launch)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._bind(feeds)
        self._launcher.enqueue()
        results = {spec.name: new_array(self._shape(spec), spec.dtype) for spec in self.outputs}
        for name, array in results.items():
            self._cuda.download(array, self._buffers[name].address, self._launcher.stream)
        self._launcher.synchronize()
        self._after_run()
        return results

    def device_ms(self, feeds: Mapping[str, Array], calls: int) -> float:
        self._bind(feeds)
        ms = self._launcher.time_ms(calls)
        self._after_run()
        return ms

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        self._bind(feeds)
        best: dict[str, float] = {}
        self._context.profiler = _recorder(self._trt, best)
        try:
            for _ in range(1 + runs):
                self._launcher.launch()
                self._launcher.synchronize()
        finally:
            self._context.profiler = None  # it costs a wait after each launch
        return [NodeTime(name, "", ms) for name, ms in best.items()]

    def describe(self) -> dict[str, str]:
        """An engine does not tell what it computes in; only the types of its inputs are known."""
        types = ", ".join(sorted({str(spec.dtype) for spec in self.inputs}))
        precision = f"not told by the engine (inputs {types})"
        layers = str(self._engine.num_layers)
        return {**super().describe(), "precision": precision, "launch": self._launcher.how, "layers": layers}

    def keep(self, owner: object) -> None:
        """Let ``owner`` live as long as this session."""
        self._owner = owner

    def when_compiled(self, call: Callable[[], None]) -> None:
        """Do that after the first run with each shape, when the kernels for it are compiled."""
        self._compiled = call

    def __del__(self) -> None:
        if hasattr(self, "_launcher"):
            with suppress(ModelError, EngineMissing):  # a device that is gone has nothing to be given back
                self._launcher.close()
                for buffer in self._buffers.values():
                    self._cuda.free(buffer.address)

    def _bind(self, feeds: Mapping[str, Array]) -> None:
        """Copy the inputs up; where their shapes are others than before, tell the context first."""
        arrays = [self._array(spec, feeds) for spec in self.inputs]
        shapes = tuple(array.shape for array in arrays)
        if shapes != self._shapes:
            self._reshape(shapes)
        for spec, array in zip(self.inputs, arrays, strict=True):
            self._cuda.upload(self._buffers[spec.name].address, array, self._launcher.stream)
        self._launcher.synchronize()

    def _reshape(self, shapes: Shapes) -> None:
        self._launcher.changed()
        self._shapes = None  # until all of them are set
        for spec, shape in zip(self.inputs, shapes, strict=True):
            if not self._context.set_input_shape(spec.name, shape):
                reason = f"{spec.name} of shape {shape} is outside of what the engine was built for"
                raise ModelError(f"{self._where}: {reason}; build it with --min-shape and --max-shape")
        for spec in (*self.inputs, *self.outputs):
            self._reserve(spec.name, int(np.prod(self._shape(spec))) * spec.dtype.itemsize)
        self._shapes = shapes

    def _array(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> Array:
        if spec.name not in feeds:
            raise ModelError(f"{self._where}: no value for input {spec.name}; give one")
        array = np.ascontiguousarray(feeds[spec.name])
        if array.dtype != spec.dtype:
            raise ModelError(f"{self._where}: {spec.name} is {array.dtype}, the engine wants {spec.dtype}")
        return array

    def _reserve(self, name: str, size: int) -> None:
        known = self._buffers.get(name)
        if known is not None and known.size >= size:
            return
        if known is not None:
            del self._buffers[name]
            self._cuda.free(known.address)
        self._buffers[name] = Buffer(self._cuda.allocate(size), size)
        self._context.set_tensor_address(name, self._buffers[name].address)

    def _after_run(self) -> None:
        if self._shapes is None or self._shapes in self._seen:
            return
        self._seen.add(self._shapes)
        if self._compiled is not None:
            self._compiled()

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise ModelError(
                f"{self._where}: the size of output {spec.name} depends on the data, which is not supported; "
                "use --engine onnxruntime"
            )
        return shape

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
        sizes = tuple("?" if size < 0 else size for size in shape)
        return TensorSpec(name, numpy_type(self._trt, self._engine, name, self._where), sizes)


def _recorder(trt: Any, best: dict[str, float]) -> Any:
    class Record(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            best[layer_name] = min(ms, best.get(layer_name, ms))

    return Record()
