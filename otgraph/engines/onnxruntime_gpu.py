"""ONNX Runtime's GPU providers: CUDA, and TensorRT inside of ONNX Runtime. Both need ``onnxruntime-gpu``."""

from __future__ import annotations

from typing import ClassVar, final

import onnxruntime as ort

from otgraph.engines.engine import Model, TimedBy
from otgraph.engines.gpu_state import gpu_names, gpu_state
from otgraph.engines.onnxruntime import OnnxRuntimeSession, Provider

TENSORRT_11 = (1, 27)
"""The first ONNX Runtime whose TensorRT provider works with TensorRT 11."""


class _GpuProvider(Provider):
    """What a provider is on an NVIDIA GPU."""

    def unavailable(self) -> str | None:
        if self.providers[0] not in ort.get_available_providers():
            return (
                f"onnxruntime {ort.__version__} has no {self.providers[0]}; "
                "pip install onnxruntime-gpu in place of onnxruntime"
            )
        if not gpu_names():
            return "no NVIDIA GPU answers; check nvidia-smi"
        return None

    def load(self, model: Model, *, threads: int = 1) -> GpuSession:
        return GpuSession(model, threads, self.providers)

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": ort.__version__,
            "device": ", ".join(gpu_names()) or "none",
            "provider": self.providers[0],
        }

    def state(self) -> dict[str, float]:
        return gpu_state()


@final
class OnnxRuntimeCuda(_GpuProvider):
    """The CUDA execution provider."""

    name = "onnxruntime-cuda"
    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")


@final
class OnnxRuntimeTensorRt(_GpuProvider):
    """The TensorRT execution provider; what TensorRT does not take runs by CUDA."""

    name = "onnxruntime-tensorrt"
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")

    def describe(self) -> dict[str, str]:
        old = tuple(int(part) for part in ort.__version__.split(".")[:2]) < TENSORRT_11
        return {**super().describe(), "tensorrt": "10 or older" if old else "10 or 11"}


@final
class GpuSession(OnnxRuntimeSession):
    """Timed by the wall clock, the copies of inputs and outputs included: the processor only waits."""

    timed_by: ClassVar[TimedBy] = "wall"
