"""What an inference engine is to otgraph: something that builds, loads and runs models. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.engines.artifact import BuildOptions, Built
from otgraph.errors import ModelError, UsageError

__all__ = ["Engine", "Model", "NodeTime", "Session", "TensorSpec", "TimedBy"]

Model = Path | bytes
"""A model file, or the bytes of one."""

TimedBy = Literal["host", "wall", "device"]
"""Which clock tells how long a call takes: the host's processor or wall clock, its wall clock only (the work
is done elsewhere), or the device's own (``Session.device_ms``)."""


@dataclass(frozen=True)
class NodeTime:
    """One node as the engine executes it (names and op types are the engine's, after its own fusions)."""

    name: str
    op_type: str
    ms: float


class Session(ABC):
    """A loaded model, ready to run. Sessions hold memory and threads: drop them when done."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    timed_by: ClassVar[TimedBy] = "host"

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises ``ModelError`` when the engine cannot run these feeds."""

    @abstractmethod
    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        """Milliseconds of each node, its minimum over ``runs`` runs, in execution order."""

    def device_ms(self, feeds: Mapping[str, Array], calls: int) -> float:
        """Milliseconds per call by the device's clock, over ``calls`` calls; copies of inputs and outputs
        are not in it. Only of sessions that are ``timed_by`` their device."""
        raise ModelError("this engine has no clock of its own; it is timed by the host's")

    def describe(self) -> dict[str, str]:
        """What is loaded: the batch, and the precision as far as the engine tells."""
        first = [str(spec.shape[0]) for spec in self.inputs if spec.shape]
        types = sorted({str(spec.dtype) for spec in self.inputs})
        return {"batch": first[0] if first else "none", "precision": " ".join(types)}


class Engine(ABC):
    """One way to execute models on this machine."""

    name: str
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of the artifacts that it writes and loads, besides ``.onnx``."""
    times_kernels: ClassVar[bool] = True
    """Whether the time of a node by itself says what it takes within a network."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why the engine cannot run models here, or ``None`` when it can."""

    def cannot_build(self) -> str | None:
        """Why the engine cannot build artifacts here, or ``None`` when it can."""
        return self.unavailable()

    @abstractmethod
    def load(self, model: Model, *, threads: int = 1) -> Session:
        """A fresh session on ``threads`` threads. Raises ``ModelError`` when the model cannot be loaded."""

    def build(self, model: Path, output: Path, options: BuildOptions) -> Built:
        """Write to ``output`` what ``load`` loads, from the ONNX file ``model``. Raises ``ModelError``,
        ``UsageError`` for options that make no sense here, ``OutputError``."""
        raise UsageError(f"engine '{self.name}': writes no artifact; it runs the model as it is")

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device and versions, as recorded in every audit; whatever a measurement depends on."""

    def state(self) -> Mapping[str, float]:
        """The device's clocks (MHz) and temperature (°C) now; empty where it does not say."""
        return {}

    def with_cuda_graph(self) -> Engine:
        """The same engine, replaying a captured CUDA graph instead of launching kernels one by one."""
        raise UsageError(f"engine '{self.name}': has no CUDA graphs; leave --cuda-graph out")
