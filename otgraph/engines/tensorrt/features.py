"""What the installed TensorRT can do. All differences between its versions and editions are told apart here,
by what the module has, never by its version number.

============================  ============  ============  ============
                              TensorRT 10   TensorRT 11   for RTX 1.x
============================  ============  ============  ============
strongly typed networks       a flag        always        a flag or always
builds for other GPUs         no            no            by compute capability
timing cache                  yes           yes           without effect, and it needs a GPU
runtime cache, graph strategy no            no            yes
``device_memory_size``        both names    ``_v2``       ``_v2``
``DIRECT_IO``                 yes           gone          yes
============================  ============  ============  ============
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEVICE_MEMORY = ("device_memory_size_v2", "device_memory_size")


@dataclass(frozen=True)
class Features:
    """``network_flags``: for ``create_network``, strongly typed wherever that is a choice.
    ``compute_capabilities``: what can be built for, times ten; empty where only the GPU at hand can.
    ``device_memory``: the attribute of an engine that says how much memory it needs, or None."""

    network_flags: int = 0
    compute_capabilities: Mapping[int, Any] = field(default_factory=dict[int, Any])
    timing_cache: bool = False
    runtime_cache: bool = False
    whole_graph_capture: Any = None
    device_memory: str | None = None
    tf32: Any = None
    direct_io: Any = None
    detailed_profile: Any = None

    @property
    def builds_ahead(self) -> bool:
        """It builds for GPUs that are not here."""
        return bool(self.compute_capabilities)


def read_features(trt: Any) -> Features:
    """The features of ``tensorrt``, ``tensorrt_rtx`` or what stands in for them."""
    config, engine = trt.IBuilderConfig, trt.ICudaEngine
    ahead = hasattr(config, "set_compute_capability") and hasattr(trt, "ComputeCapability")
    typed = _member(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    return Features(
        network_flags=0 if typed is None else 1 << int(typed),
        compute_capabilities=_capabilities(trt.ComputeCapability) if ahead else {},
        timing_cache=hasattr(config, "create_timing_cache") and not ahead,
        runtime_cache=hasattr(engine, "create_runtime_config") and hasattr(trt, "IRuntimeCache"),
        whole_graph_capture=_member(trt, "CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
        device_memory=next((name for name in DEVICE_MEMORY if hasattr(engine, name)), None),
        tf32=_member(trt, "BuilderFlag", "TF32"),
        direct_io=_member(trt, "BuilderFlag", "DIRECT_IO"),
        detailed_profile=_member(trt, "ProfilingVerbosity", "DETAILED"),
    )


def _member(trt: Any, enumeration: str, name: str) -> Any:
    return getattr(getattr(trt, enumeration, None), name, None)


def _capabilities(enumeration: Any) -> dict[int, Any]:
    """``SM86`` → 86; NONE and CURRENT are no GPU."""
    names = [name for name in dir(enumeration) if name.startswith("SM") and name[2:].isdigit()]
    return {
        int(name[2:]): getattr(enumeration, name) for name in sorted(names, key=lambda name: int(name[2:]))
    }
