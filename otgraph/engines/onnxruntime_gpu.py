"""ONNX Runtime's GPU providers: CUDA, and TensorRT inside of ONNX Runtime. Both need ``onnxruntime-gpu``."""

from __future__ import annotations

import os
from typing import ClassVar, final

import onnxruntime as ort

from otgraph.engines.engine import Model, TimedBy
from otgraph.engines.gpu_state import first_visible, gpu_names, gpu_state
from otgraph.engines.onnxruntime import OnnxRuntimeSession, Provider, Settings

TENSORRT_11 = (1, 27)
"""The first ONNX Runtime whose TensorRT provider works with TensorRT 11."""


FLOAT32: Settings = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""float32 means float32: the CUDA provider rounds to TF32 unless it is told not to."""

NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Set to 0, this keeps NVIDIA's libraries from TF32. TensorRT's provider has no option of its own for it."""


class _GpuProvider(Provider):
    """What a provider is on an NVIDIA GPU, the first that CUDA sees."""

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
        return GpuSession(model, threads, self.providers, FLOAT32)

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": ort.__version__,
            "device": ", ".join(gpu_names(first_visible())) or "none",
            "provider": self.providers[0],
            "tf32": "off",
        }

    def state(self) -> dict[str, float]:
        return gpu_state(first_visible())


@final
class OnnxRuntimeCuda(_GpuProvider):
    """The CUDA execution provider."""

    name = "onnxruntime-cuda"
    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")


@final
class OnnxRuntimeTensorRt(_GpuProvider):
    """The TensorRT execution provider; what TensorRT does not take runs by CUDA. On GPUs that have TF32 it
    rounds float32 products to it, unless ``NVIDIA_TF32_OVERRIDE`` is 0 in the environment."""

    name = "onnxruntime-tensorrt"
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")

    def describe(self) -> dict[str, str]:
        old = tuple(int(part) for part in ort.__version__.split(".")[:2]) < TENSORRT_11
        tf32 = "off" if os.environ.get(NO_TF32) == "0" else f"as TensorRT likes ({NO_TF32}=0 turns it off)"
        return {**super().describe(), "tensorrt": "10 or older" if old else "10 or 11", "tf32": tf32}


@final
class GpuSession(OnnxRuntimeSession):
    """Timed by the wall clock, the copies of inputs and outputs included: the processor only waits."""

    timed_by: ClassVar[TimedBy] = "wall"
