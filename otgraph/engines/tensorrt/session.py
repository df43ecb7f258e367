"""Running a serialised engine: buffers, launches, events, CUDA graphs. Everything CUDA goes through ``Cuda``.

What is timed is the device's work between two events. Inputs are copied up once before; copies are the
application's own business, and on a GPU they can be hidden behind the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.engines.engine import NodeTime, Session, TimedBy
from otgraph.engines.tensorrt.cuda import Cuda, Handle, new_array
from otgraph.engines.tensorrt.network import shape_of
from otgraph.errors import ModelError


@dataclass(frozen=True)
class Buffer:
    """Device memory of one input or output, and its present shape."""

    address: int
    size: int


@final
class TensorRtSession(Session):
    """One execution context with its stream and buffers.

    ``engine``, ``context``: TensorRT's. ``capture``: replay a CUDA graph captured once per input shape.
    ``where``: the file, for messages.
    """

    timed_by: ClassVar[TimedBy] = "device"

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, context: Any, where: str, *, capture: bool) -> None:
        self._trt, self._cuda, self._engine, self._context = trt, cuda, engine, context
        self._where = where
        self._capture = capture
        self._stream = cuda.stream()
        self._owner: object = None
        self._then: Callable[[], None] | None = None
        self._buffers: dict[str, Buffer] = {}
        self._graphs: dict[tuple[tuple[int, ...], ...], Handle] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        specs = {name: self._spec(name) for name in names}
        inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = tuple(spec for name, spec in specs.items() if name in inputs)
        self.outputs = tuple(spec for name, spec in specs.items() if name not in inputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        shapes = self._bind(feeds)
        self._enqueue(shapes)
        results = {spec.name: new_array(self._shape(spec), spec.dtype) for spec in self.outputs}
        for name, array in results.items():
            self._cuda.download(array, self._buffers[name].address, self._stream)
        self._finish()
        return results

    def device_ms(self, feeds: Mapping[str, Array], calls: int) -> float:
        shapes = self._bind(feeds)
        start, end = self._cuda.event(), self._cuda.event()
        if shapes not in self._graphs:
            self._enqueue(shapes)  # what is compiled or captured at the first launch is not timed
        self._cuda.record(start, self._stream)
        for _ in range(calls):
            self._enqueue(shapes)
        self._cuda.record(end, self._stream)
        self._finish()
        return self._cuda.elapsed_ms(start, end) / calls

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        self._bind(feeds)
        best: dict[str, float] = {}
        recorder = _recorder(self._trt, best)
        self._context.profiler = recorder
        for _ in range(1 + runs):
            self._launch()
            self._cuda.synchronize(self._stream)
        return [NodeTime(name, "", ms) for name, ms in best.items()]

    def describe(self) -> dict[str, str]:
        graph = "CUDA graph" if self._capture else "kernel by kernel"
        return {**super().describe(), "launch": graph, "layers": str(self._engine.num_layers)}

    def keep(self, owner: object) -> None:
        """Let ``owner`` live as long as this session."""
        self._owner = owner

    def after_first_run(self, call: Callable[[], None]) -> None:
        """Do that once, when the kernels of the first launch are compiled."""
        self._then = call

    def close(self) -> None:
        """Give the device memory back."""
        for buffer in self._buffers.values():
            self._cuda.free(buffer.address)
        self._buffers.clear()

    def __del__(self) -> None:
        if hasattr(self, "_buffers"):
            self.close()

    def _bind(self, feeds: Mapping[str, Array]) -> tuple[tuple[int, ...], ...]:
        """Copy the inputs up and give every tensor its address; returns the inputs' shapes."""
        arrays = [self._array(spec, feeds) for spec in self.inputs]
        for spec, array in zip(self.inputs, arrays, strict=True):
            if not self._context.set_input_shape(spec.name, array.shape):
                reason = f"{spec.name} of shape {array.shape} is outside of what the engine was built for"
                raise ModelError(f"{self._where}: {reason}; build it with --min-shape and --max-shape")
            self._cuda.upload(self._reserve(spec.name, array.nbytes), array, self._stream)
        for spec in self.outputs:
            self._reserve(spec.name, int(np.prod(self._shape(spec))) * spec.dtype.itemsize)
        self._cuda.synchronize(self._stream)
        return tuple(array.shape for array in arrays)

    def _array(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> Array:
        if spec.name not in feeds:
            raise ModelError(f"{self._where}: no value for input {spec.name}; give one")
        array = np.ascontiguousarray(feeds[spec.name])
        if array.dtype != spec.dtype:
            raise ModelError(f"{self._where}: {spec.name} is {array.dtype}, the engine wants {spec.dtype}")
        return array

    def _reserve(self, name: str, size: int) -> int:
        known = self._buffers.get(name)
        if known is None or known.size < size:
            if known is not None:
                self._cuda.free(known.address)
            self._buffers[name] = Buffer(self._cuda.allocate(size), size)
            self._graphs.clear()  # they hold the old address
            self._context.set_tensor_address(name, self._buffers[name].address)
        return self._buffers[name].address

    def _enqueue(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        if not self._capture:
            self._launch()
            return
        if shapes not in self._graphs:
            self._launch()  # TensorRT allocates at the first launch of a shape, which cannot be captured
            self._cuda.synchronize(self._stream)
            self._cuda.begin_capture(self._stream)
            self._launch()
            self._graphs[shapes] = self._cuda.end_capture(self._stream)
        self._cuda.launch(self._graphs[shapes], self._stream)

    def _finish(self) -> None:
        self._cuda.synchronize(self._stream)
        if self._then is not None:
            then, self._then = self._then, None
            then()

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream_number(self._stream)):
            raise ModelError(f"{self._where}: TensorRT cannot run it with these inputs; check their shapes")

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise ModelError(
                f"{self._where}: the size of output {spec.name} depends on the data, which is not supported; "
                "use --engine onnxruntime"
            )
        return shape

    def _spec(self, name: str) -> TensorSpec:
        shape = shape_of(_Shaped(self._engine.get_tensor_shape(name)))
        sizes = tuple("?" if size < 0 else size for size in shape)
        return TensorSpec(name, np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))), sizes)


@dataclass(frozen=True)
class _Shaped:
    shape: Any


def _recorder(trt: Any, best: dict[str, float]) -> Any:
    class Record(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            best[layer_name] = min(ms, best.get(layer_name, ms))

    return Record()
