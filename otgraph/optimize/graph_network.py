"""A graph that runs as a session of an engine does: figures of outputs need neither a file nor an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from otgraph.calibrate.divergence import arrays_of
from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.graph.graph import Graph
from otgraph.graph.specs import input_specs, output_specs


@dataclass(frozen=True, eq=False)
class GraphNetwork:
    """``graph`` on arrays by name, without gradient."""

    graph: Graph

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """One spec per input, in call order."""
        return input_specs(self.graph)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """One spec per output."""
        return output_specs(self.graph)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name."""
        signature = self.graph.signature
        tensors = (torch.from_numpy(feeds[port.name].copy()) for port in signature.inputs)
        return arrays_of(self.graph(*tensors), [port.name for port in signature.outputs])
