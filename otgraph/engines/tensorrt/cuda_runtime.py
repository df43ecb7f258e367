"""``Cuda`` by NVIDIA's own bindings of its runtime (package ``cuda-bindings``)."""

from __future__ import annotations

import importlib
from typing import Any, final

import numpy.typing as npt

from otgraph.engines.tensorrt.cuda import Cuda, Gpu, Handle
from otgraph.errors import EngineMissing, ModelError

BUS_LENGTH = 32
"""Characters that a place on the PCI bus takes at most, its end included."""

OLD_DRIVER = "cudaErrorInsufficientDriver"
NO_DEVICE = "cudaErrorNoDevice"


@final
class CudaRuntime(Cuda):
    """The CUDA runtime; the device is the current one, the first that ``CUDA_VISIBLE_DEVICES`` leaves."""

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
        bus = _text(self._call(self._api.cudaDeviceGetPCIBusId(BUS_LENGTH, device)))
        capability = 10 * found.major + found.minor
        return Gpu(_text(found.name), capability, _version(driver), _version(runtime), bus)

    def allocate(self, size: int) -> int:
        return int(self._call(self._api.cudaMalloc(max(size, 1))))

    def free(self, address: int) -> None:
        self._call(self._api.cudaFree(address))

    def stream(self) -> Handle:
        return self._call(self._api.cudaStreamCreateWithFlags(self._api.cudaStreamNonBlocking))

    def stream_number(self, stream: Handle) -> int:
        return int(stream)

    def destroy_stream(self, stream: Handle) -> None:
        self._call(self._api.cudaStreamDestroy(stream))

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

    def destroy_event(self, event: Handle) -> None:
        self._call(self._api.cudaEventDestroy(event))

    def begin_capture(self, stream: Handle) -> None:
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._api.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Handle) -> Handle:
        graph = self._call(self._api.cudaStreamEndCapture(stream))
        try:
            return self._call(self._api.cudaGraphInstantiate(graph, 0))
        finally:
            self._call(self._api.cudaGraphDestroy(graph))  # the executable one needs it no more

    def abandon_capture(self, stream: Handle) -> None:
        error, graph = self._api.cudaStreamEndCapture(stream)
        if int(error) == 0:
            self._api.cudaGraphDestroy(graph)
        self._api.cudaGetLastError()  # a capture that went wrong would be told once more by the next call

    def launch(self, graph: Handle, stream: Handle) -> None:
        self._call(self._api.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: Handle) -> None:
        self._call(self._api.cudaGraphExecDestroy(graph))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        error, *values = answer
        if int(error) == 0:
            return values[0] if values else None
        name = getattr(error, "name", str(error))
        if name in (OLD_DRIVER, NO_DEVICE):
            raise EngineMissing(f"CUDA: {self._describe(error)}; check GPU and driver with nvidia-smi")
        raise ModelError(f"CUDA: {name}: {self._describe(error)}; check nvidia-smi and free memory")

    def _describe(self, error: Any) -> str:
        """CUDA's sentence; of a driver that is too old, what is too new for it, which can be mended too."""
        if getattr(error, "name", "") != OLD_DRIVER:
            return _text(self._api.cudaGetErrorString(error)[1])
        (_, driver), (_, runtime) = self._api.cudaDriverGetVersion(), self._api.cudaRuntimeGetVersion()
        if not driver:
            return "no NVIDIA driver is installed"
        return (
            f"the driver is for CUDA {_version(driver)}, cuda-bindings for {_version(runtime)}; pip install"
            f" 'cuda-bindings=={driver // 1000}.*', or a newer driver"
        )


def _text(found: Any) -> str:
    """A C string, as the bindings give it."""
    return found.split(b"\0", 1)[0].decode() if isinstance(found, bytes) else str(found)


def _version(number: int) -> str:
    """13050 → ``13.5``, as CUDA counts."""
    return f"{number // 1000}.{number % 1000 // 10}"
