"""NVIDIA's bindings of the CUDA runtime: the names that are called, and what is made of errors. No GPU."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from otgraph.engines.tensorrt import cuda_runtime
from otgraph.engines.tensorrt.cuda_runtime import CudaRuntime
from otgraph.errors import EngineMissing, ModelError


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureInvalidated = 901


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bindings for CUDA 13.5 with a driver for 12.8; a test gives the calls that it needs."""
    module: Any = ModuleType("cuda.bindings.runtime")
    module.cudaGetErrorString = lambda error: (Error.cudaSuccess, f"text of {int(error)}".encode())
    module.cudaDriverGetVersion = lambda: (Error.cudaSuccess, 12080)
    module.cudaRuntimeGetVersion = lambda: (Error.cudaSuccess, 13050)
    module.cudaGetLastError = lambda: (Error.cudaSuccess,)
    module.cudaGetDeviceCount = lambda: (Error.cudaErrorInsufficientDriver, None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module)
    return module


def test_every_name_that_is_called_exists() -> None:
    bindings = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r"_api\.(\w+)", inspect.getsource(cuda_runtime)))
    assert len(names) > 20
    assert [name for name in names if not hasattr(bindings, name)] == []


def test_bindings_that_are_too_new_for_the_driver_say_what_to_install(api: Any) -> None:
    said = "the driver is for CUDA 12.8, cuda-bindings for 13.5; pip install 'cuda-bindings==12.*', or a"
    assert said in str(CudaRuntime().unavailable())
    api.cudaStreamCreateWithFlags = lambda flags: (Error.cudaErrorInsufficientDriver, None)
    api.cudaStreamNonBlocking = 1
    with pytest.raises(EngineMissing, match=r"cuda-bindings for 13\.5"):
        CudaRuntime().stream()


def test_without_any_driver_nothing_is_to_be_installed_but_that(api: Any) -> None:
    api.cudaDriverGetVersion = lambda: (Error.cudaSuccess, 0)
    assert CudaRuntime().unavailable() == "no NVIDIA GPU answers: no NVIDIA driver is installed"


def test_other_errors_are_model_errors(api: Any) -> None:
    api.cudaMalloc = lambda size: (Error.cudaErrorMemoryAllocation, None)
    with pytest.raises(ModelError, match=r"CUDA: cudaErrorMemoryAllocation: text of 2; check nvidia-smi"):
        CudaRuntime().allocate(8)


def test_a_capture_that_went_wrong_is_left_without_an_error(api: Any) -> None:
    ended: list[str] = []
    api.cudaStreamEndCapture = lambda stream: (Error.cudaErrorStreamCaptureInvalidated, None)
    api.cudaGetLastError = lambda: ended.append("forgotten")
    CudaRuntime().abandon_capture("stream")
    assert ended == ["forgotten"]


def test_the_template_of_a_graph_is_given_back_though_it_cannot_be_made(api: Any) -> None:
    destroyed: list[str] = []
    api.cudaStreamEndCapture = lambda stream: (Error.cudaSuccess, "graph")
    api.cudaGraphInstantiate = lambda graph, flags: (Error.cudaErrorMemoryAllocation, None)
    api.cudaGraphDestroy = lambda graph: destroyed.append(graph) or (Error.cudaSuccess,)
    with pytest.raises(ModelError):
        CudaRuntime().end_capture("stream")
    assert destroyed == ["graph"]
