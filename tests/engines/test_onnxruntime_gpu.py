"""ONNX Runtime's GPU providers, on a stand-in of the package that has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otgraph.engines import gpu_state, onnxruntime, onnxruntime_gpu
from otgraph.engines.gpu_state import read_state
from otgraph.engines.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRt
from otgraph.errors import EngineMissing
from otgraph.latency.clock import Clock
from otgraph.latency.protocol import clock_name
from otgraph.sample import model_path

GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
FEEDS = {"image": np.zeros((1, 1, 28, 28), np.float32)}


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A build with all providers on a machine with a GPU; returns the providers that sessions asked for.

    Sessions run on the CPU, and say that they run where they were asked to.
    """
    asked: list[list[str]] = []
    real = onnxruntime.ort.InferenceSession

    def session(source: Any, options: Any, providers: list[str]) -> Any:
        asked.append(providers)
        made = real(source, options, providers=["CPUExecutionProvider"])
        made.get_providers = lambda: providers
        return made

    package = SimpleNamespace(**vars(onnxruntime.ort))
    package.get_available_providers = lambda: list(GPU)
    package.InferenceSession = session
    monkeypatch.setattr(onnxruntime, "ort", package)
    monkeypatch.setattr(onnxruntime_gpu, "ort", package)
    monkeypatch.setattr(onnxruntime_gpu, "gpu_names", lambda: ("Stand-in 9000",))
    return asked


@pytest.mark.parametrize("kind", [OnnxRuntimeCuda, OnnxRuntimeTensorRt])
def test_the_provider_comes_first_and_the_cpu_last(kind: Any, gpu_build: list[list[str]]) -> None:
    engine = kind()
    assert engine.unavailable() is None and engine.describe()["device"] == "Stand-in 9000"
    session = engine.load(model_path())
    assert gpu_build[0] == list(engine.providers) and gpu_build[0][-1] == "CPUExecutionProvider"
    assert session.run(FEEDS)["logits"].shape == (1, 10)
    reading = Clock().read(session, FEEDS, 1)
    assert clock_name([[(reading,)]], 1) == "wall"  # the processor only waits


def test_a_silent_fall_back_to_the_cpu_is_an_error(
    gpu_build: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.ort.InferenceSession

    def fallen(*arguments: Any, providers: list[str]) -> Any:
        made = real(*arguments, providers=providers)
        made.get_providers = lambda: ["CPUExecutionProvider"]
        return made

    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", fallen)
    with pytest.raises(
        EngineMissing, match=r"CUDAExecutionProvider: onnxruntime could not start it and would"
    ):
        OnnxRuntimeCuda().load(model_path())


def test_a_build_without_the_provider_says_what_to_install() -> None:
    reason = OnnxRuntimeCuda().unavailable()
    assert reason is not None and "pip install onnxruntime-gpu in place of onnxruntime" in reason


def test_a_build_without_a_gpu_says_so(gpu_build: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "gpu_names", lambda: ())
    assert OnnxRuntimeTensorRt().unavailable() == "no NVIDIA GPU answers; check nvidia-smi"


def test_clocks_and_temperature_are_read_as_nvidia_smi_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"clock_mhz": 2520.0, "memory_clock_mhz": 10501.0, "temperature_c": 61.0, "power_w": 212.37}
    assert read_state("2520, 10501, 61, 212.37\n210, 405, 38, 20.1\n") == state
    assert "power_w" not in read_state("2520, 10501, 61, [N/A]")
    assert read_state("") == {}
    monkeypatch.setattr(gpu_state.shutil, "which", lambda _: None)
    assert gpu_state.gpu_state() == {} and gpu_state.gpu_names() == ()
