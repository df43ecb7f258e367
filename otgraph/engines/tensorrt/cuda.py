"""The few calls of the CUDA runtime that running an engine takes: the seam at which tests put a stand-in."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from otgraph.errors import EngineMissing, ModelError

Handle = Any
"""A stream, an event or an executable graph: opaque here."""


@dataclass(frozen=True)
class Gpu:
    """The current device."""

    name: str
    compute_capability: int
    driver: str
    runtime: str


class Cuda(ABC):
    """What is asked of CUDA. Calls on a stream return at once and take effect in its order; arrays handed to
    ``upload`` and ``download`` must live until ``synchronize``. All raise ``ModelError`` on a CUDA error."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why there is no usable device, or None."""

    @abstractmethod
    def gpu(self) -> Gpu:
        """The current device."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of so many bytes of device memory."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give device memory back."""

    @abstractmethod
    def stream(self) -> Handle:
        """A new stream."""

    @abstractmethod
    def stream_number(self, stream: Handle) -> int:
        """The stream as TensorRT wants it."""

    @abstractmethod
    def upload(self, address: int, array: npt.NDArray[Any], stream: Handle) -> None:
        """Copy a contiguous array to the device."""

    @abstractmethod
    def download(self, array: npt.NDArray[Any], address: int, stream: Handle) -> None:
        """Fill a contiguous array from the device."""

    @abstractmethod
    def synchronize(self, stream: Handle) -> None:
        """Wait until all that was put on the stream is done."""

    @abstractmethod
    def event(self) -> Handle:
        """A new event."""

    @abstractmethod
    def record(self, event: Handle, stream: Handle) -> None:
        """Let the device note the time when the stream gets here."""

    @abstractmethod
    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that the device has noted."""

    @abstractmethod
    def begin_capture(self, stream: Handle) -> None:
        """From here on, calls on the stream are written down instead of made."""

    @abstractmethod
    def end_capture(self, stream: Handle) -> Handle:
        """What was written down, ready to be launched."""

    @abstractmethod
    def launch(self, graph: Handle, stream: Handle) -> None:
        """Make all its calls, in one go."""


@final
class CudaRuntime(Cuda):
    """NVIDIA's own bindings (package ``cuda-bindings``)."""

    def __init__(self) -> None:
        self._api: Any = importlib.import_module("cuda.bindings.runtime")

    def unavailable(self) -> str | None:
        error, count = self._api.cudaGetDeviceCount()
        if int(error) == 0 and count:
            return None
        reason = self._describe(error) if int(error) else "there is none"
        return f"no NVIDIA GPU answers: {reason}"

    def gpu(self) -> Gpu:
        device = self._call(self._api.cudaGetDevice())
        found = self._call(self._api.cudaGetDeviceProperties(device))
        driver, runtime = (
            self._call(ask()) for ask in (self._api.cudaDriverGetVersion, self._api.cudaRuntimeGetVersion)
        )
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Gpu(name, 10 * found.major + found.minor, _version(driver), _version(runtime))

    def allocate(self, size: int) -> int:
        return int(self._call(self._api.cudaMalloc(max(size, 1))))

    def free(self, address: int) -> None:
        self._call(self._api.cudaFree(address))

    def stream(self) -> Handle:
        return self._call(self._api.cudaStreamCreate())

    def stream_number(self, stream: Handle) -> int:
        return int(stream)

    def upload(self, address: int, array: npt.NDArray[Any], stream: Handle) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._api.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream))

    def download(self, array: npt.NDArray[Any], address: int, stream: Handle) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._api.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream))

    def synchronize(self, stream: Handle) -> None:
        self._call(self._api.cudaStreamSynchronize(stream))

    def event(self) -> Handle:
        return self._call(self._api.cudaEventCreate())

    def record(self, event: Handle, stream: Handle) -> None:
        self._call(self._api.cudaEventRecord(event, stream))

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        self._call(self._api.cudaEventSynchronize(end))
        return float(self._call(self._api.cudaEventElapsedTime(start, end)))

    def begin_capture(self, stream: Handle) -> None:
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._api.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Handle) -> Handle:
        graph = self._call(self._api.cudaStreamEndCapture(stream))
        return self._call(self._api.cudaGraphInstantiate(graph, 0))

    def launch(self, graph: Handle, stream: Handle) -> None:
        self._call(self._api.cudaGraphLaunch(graph, stream))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        error, *values = answer
        if int(error) == 0:
            return values[0] if values else None
        name = getattr(error, "name", str(error))
        if name in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"):
            raise EngineMissing(f"CUDA: {self._describe(error)}; check the driver with nvidia-smi")
        raise ModelError(f"CUDA: {name}: {self._describe(error)}; check nvidia-smi and free memory")

    def _describe(self, error: Any) -> str:
        _, text = self._api.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)


def _version(number: int) -> str:
    """13050 → ``13.5``, as CUDA counts."""
    return f"{number // 1000}.{number % 1000 // 10}"


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Memory of the host that a device may fill."""
    return np.empty(shape, dtype)
