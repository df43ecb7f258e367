"""What the installed TensorRT can do. All differences between its versions and editions are told apart here,
by what the module has, never by its version number.

============================  ============  ============  ============
                              TensorRT 10   TensorRT 11   for RTX 1.x
============================  ============  ============  ============
strongly typed networks       a flag        always        a flag or always
builds for other GPUs         no            no            by compute capability
timing cache                  yes           yes           without effect, and it needs a GPU
runtime cache, graph strategy no            no            yes
kernels for dynamic shapes    built         built         compiled on the GPU, later or at once
============================  ============  ============  ============
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Features:
    """``network_flags``: for ``create_network``, strongly typed wherever that is a choice.
    ``compute_capabilities``: what can be built for, times ten; empty where only the GPU at hand can.
    ``eager_kernels``: the strategy by which the kernels for a new shape are compiled before its first run is
    over. By default others run until they are, in the background, and would be what is timed."""

    network_flags: int = 0
    compute_capabilities: Mapping[int, Any] = field(default_factory=dict[int, Any])
    timing_cache: bool = False
    runtime_cache: bool = False
    whole_graph_capture: Any = None
    eager_kernels: Any = None
    tf32: Any = None
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
        eager_kernels=_member(trt, "DynamicShapesKernelSpecializationStrategy", "EAGER"),
        tf32=_member(trt, "BuilderFlag", "TF32"),
        detailed_profile=_member(trt, "ProfilingVerbosity", "DETAILED"),
    )


def register_plugins(trt: Any, logger: Any) -> None:
    """Make TensorRT's own plugins known, where it has any: parsing and loading look them up by name."""
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")


def _member(trt: Any, enumeration: str, name: str) -> Any:
    return getattr(getattr(trt, enumeration, None), name, None)


def _capabilities(enumeration: Any) -> dict[int, Any]:
    """``SM86`` → 86; NONE and CURRENT are no GPU."""
    names = [name for name in dir(enumeration) if name.startswith("SM") and name[2:].isdigit()]
    return {
        int(name[2:]): getattr(enumeration, name) for name in sorted(names, key=lambda name: int(name[2:]))
    }
