"""The inputs of a graph as ``data_check`` wants them: NumPy types and shapes."""

from __future__ import annotations

import torch

from otgraph.data_check import TensorSpec
from otgraph.graph.graph import Graph


def input_specs(graph: Graph) -> tuple[TensorSpec, ...]:
    """One spec per input, in call order."""
    return tuple(
        TensorSpec(port.name, torch.empty(0, dtype=port.dtype).numpy().dtype, port.shape)
        for port in graph.signature.inputs
    )
