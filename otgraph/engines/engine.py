"""What an inference engine is to otgraph: something that loads an ONNX model and runs it. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from otgraph.data import Array
from otgraph.data_check import TensorSpec

__all__ = ["Engine", "Model", "NodeTime", "Session", "TensorSpec"]

Model = Path | bytes
"""A model file, or the bytes of one."""


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

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises ``ModelError`` when the engine cannot run these feeds."""

    @abstractmethod
    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        """Milliseconds of each node, its minimum over ``runs`` runs, in execution order."""


class Engine(ABC):
    """One way to execute models on this machine."""

    name: str

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why the engine cannot be used here, or ``None`` when it can."""

    @abstractmethod
    def load(self, model: Model, *, threads: int = 1) -> Session:
        """A fresh session on ``threads`` threads. Raises ``ModelError`` when the model cannot be loaded."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device and versions, as recorded in every audit."""
