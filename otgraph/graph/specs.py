"""The inputs of a graph as data are held against them: NumPy types and shapes."""

from __future__ import annotations

import torch

from otgraph.data import Data
from otgraph.data_check import TensorSpec
from otgraph.data_model import ModelData
from otgraph.graph.graph import Graph, Port
from otgraph.graph.onnx.uninterpreted import check_runs


def input_specs(graph: Graph) -> tuple[TensorSpec, ...]:
    """One spec per input, in call order."""
    return tuple(map(_spec, graph.signature.inputs))


def output_specs(graph: Graph) -> tuple[TensorSpec, ...]:
    """One spec per output, in the order they are returned."""
    return tuple(map(_spec, graph.signature.outputs))


def bind(data: Data, graph: Graph) -> ModelData:
    """``data`` as inputs of ``graph``; free where that is known already.

    Raises:
        DataError: they do not fit: an array is missing, empty, of another type or shape, or holds NaN.
        ModelError: the graph has a node that nothing here can run.
    """
    check_runs(graph, "inputs")
    return ModelData.of(data, input_specs(graph))


def _spec(port: Port) -> TensorSpec:
    return TensorSpec(port.name, torch.empty(0, dtype=port.dtype).numpy().dtype, port.shape)
