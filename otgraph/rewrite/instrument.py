"""Instruments watch a pass manager: timing, printing and keeping failures live here, never inside passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from otgraph.files import write_aside
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Pass
from otgraph.rewrite.program_text import program_text


class Instrument(Protocol):
    """Called around every pass."""

    def before(self, step: Pass, graph: Graph) -> None:
        """A pass is about to run on ``graph``."""
        ...

    def after(self, step: Pass, graph: Graph) -> None:
        """A pass has returned ``graph`` and its claim held."""
        ...

    def failed(self, step: Pass, graph: Graph, error: Exception) -> None:
        """A pass crashed or broke its claim; ``graph`` is what it was given."""
        ...


@dataclass(frozen=True)
class SaveFailing:
    """Writes what reproduces a failure to ``folder``: ``<pass>.txt`` (error, text) and ``<pass>.onnx``."""

    folder: Path

    def before(self, step: Pass, graph: Graph) -> None:
        """Nothing."""

    def after(self, step: Pass, graph: Graph) -> None:
        """Nothing."""

    def failed(self, step: Pass, graph: Graph, error: Exception) -> None:
        """Write the two files."""
        with write_aside(self.folder / f"{step.name}.txt") as path:
            path.write_text(
                f"{error}\n\npipeline\n{step}\n\nbefore\n{program_text(graph)}\n", encoding="utf-8"
            )
        graph.save(self.folder / f"{step.name}.onnx")
