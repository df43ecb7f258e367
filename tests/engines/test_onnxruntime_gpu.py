"""ONNX Runtime's GPU providers, on a stand-in of the package that has them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otgraph.engines import gpu_state, onnxruntime, onnxruntime_gpu
from otgraph.engines.gpu_state import first_visible, read_state
from otgraph.engines.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRt
from otgraph.errors import EngineMissing
from otgraph.latency.clock import Clock
from otgraph.latency.protocol import clock_name
from otgraph.sample import model_path

GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
Asked = list[list[tuple[str, dict[str, str]]]]
FEEDS = {"image": np.zeros((1, 1, 28, 28), np.float32)}


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A build with all providers on a machine with a GPU; returns the providers that sessions asked for.

    Sessions run on the CPU, and say that they run where they were asked to.
    """
    asked: Asked = []
    real = onnxruntime.ort.InferenceSession

    def session(source: Any, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        asked.append(providers)
        made = real(source, options, providers=["CPUExecutionProvider"])
        made.get_providers = lambda: [name for name, _ in providers]
        return made

    package = SimpleNamespace(**vars(onnxruntime.ort))
    package.get_available_providers = lambda: list(GPU)
    package.InferenceSession = session
    monkeypatch.setattr(onnxruntime, "ort", package)
    monkeypatch.setattr(onnxruntime_gpu, "ort", package)
    monkeypatch.setattr(onnxruntime_gpu, "gpu_names", lambda gpu=None: ("Stand-in 9000",))
    return asked


@pytest.mark.parametrize("kind", [OnnxRuntimeCuda, OnnxRuntimeTensorRt])
def test_the_provider_comes_first_and_the_cpu_last(kind: Any, gpu_build: Asked) -> None:
    engine = kind()
    assert engine.unavailable() is None and engine.describe()["device"] == "Stand-in 9000"
    session = engine.load(model_path())
    names = [name for name, _ in gpu_build[0]]
    assert names == list(engine.providers) and names[-1] == "CPUExecutionProvider"
    assert session.run(FEEDS)["logits"].shape == (1, 10)
    reading = Clock().read(session, FEEDS, 1)
    assert clock_name([[(reading,)]], 1) == "wall"  # the processor only waits


def test_float32_is_not_rounded_to_tf32(gpu_build: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    OnnxRuntimeCuda().load(model_path())
    assert gpu_build[0] == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
    assert OnnxRuntimeCuda().describe()["tf32"] == "off"
    OnnxRuntimeTensorRt().load(model_path())
    assert dict(gpu_build[1])["CUDAExecutionProvider"] == {"use_tf32": "0"}
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert "NVIDIA_TF32_OVERRIDE=0 turns it off" in OnnxRuntimeTensorRt().describe()["tf32"]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert OnnxRuntimeTensorRt().describe()["tf32"] == "off"


def test_a_silent_fall_back_to_the_cpu_is_an_error(gpu_build: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_build_without_a_gpu_says_so(gpu_build: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "gpu_names", lambda gpu=None: ())
    assert OnnxRuntimeTensorRt().unavailable() == "no NVIDIA GPU answers; check nvidia-smi"


def test_clocks_and_temperature_are_read_as_nvidia_smi_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"clock_mhz": 2520.0, "memory_clock_mhz": 10501.0, "temperature_c": 61.0, "power_w": 212.37}
    assert read_state("2520, 10501, 61, 212.37\n") == state
    assert "power_w" not in read_state("2520, 10501, 61, [N/A]")
    assert read_state("") == {}
    monkeypatch.setattr(gpu_state.shutil, "which", lambda _: None)
    assert gpu_state.gpu_state("GPU-1") == {} and gpu_state.gpu_names() == ()


SMI = r"""#!/bin/sh
case "$*" in
--query-gpu=uuid*) printf 'GPU-aa\nGPU-bb\n' ;;
--id=GPU-bb\ --query-gpu=clocks.sm,*) echo '210, 405, 38, 20.1' ;;
--id=0000:41:00.0\ --query-gpu=clocks.sm,*) echo '2520, 10501, 61, 212.37' ;;
--id=GPU-bb\ --query-gpu=name*) echo 'Second' ;;
*) exit 6 ;;
esac
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``nvidia-smi`` that knows two GPUs, and answers only about the one that it is asked for."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_the_gpu_that_is_used_is_asked(two_gpus: None) -> None:
    assert gpu_state.gpu_state("0000:41:00.0")["clock_mhz"] == 2520
    assert gpu_state.gpu_state("GPU-bb")["clock_mhz"] == 210
    assert gpu_state.gpu_names("GPU-bb") == ("Second",)
    assert gpu_state.gpu_state(None) == {}


@pytest.mark.parametrize(
    ("visible", "order", "gpu"),
    [
        ("GPU-b", None, "GPU-bb"),
        ("1,0", "PCI_BUS_ID", "GPU-bb"),
        (None, "PCI_BUS_ID", "GPU-aa"),
        ("7", "PCI_BUS_ID", None),
        ("1", None, None),  # by speed, which nvidia-smi does not tell
        (None, None, None),
        ("", None, None),
        ("-1", "PCI_BUS_ID", None),
    ],
)
def test_the_first_gpu_of_cuda_is_found_or_none(
    visible: str | None, order: str | None, gpu: str | None, two_gpus: None
) -> None:
    given = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": order}
    assert first_visible({name: value for name, value in given.items() if value is not None}) == gpu
