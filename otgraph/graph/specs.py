"""The inputs of a graph as data are held against them: NumPy types and shapes."""

from __future__ import annotations

import numpy as np
import torch

from otgraph.data import Data
from otgraph.data_check import TensorSpec
from otgraph.data_model import ModelData
from otgraph.errors import DataError
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
        DataError: they do not fit: an array is missing, empty, of another type or shape, or holds NaN; or the
            model does not run on them.
        ModelError: the graph has a node that nothing here can run.
    """
    check_runs(graph, "inputs")
    found = ModelData.of(data, input_specs(graph))
    if found is not data:
        _check_runs(found, graph)
    return found


def _check_runs(data: ModelData, graph: Graph) -> None:
    """Call the model with two samples and with three: what runs for its own example may hang on a batch of
    that size, or on the axes that its inputs leave free."""
    ports = graph.signature.inputs
    fixed = [port.shape[0] for port in ports if port.shape and isinstance(port.shape[0], int)]
    chunk = data.chunks[0]
    for count in fixed[:1] or sorted({min(2, len(chunk)), min(3, len(chunk))}):
        if count > len(chunk):
            continue  # too few for one call: who reads them says so
        rows = chunk.rows(slice(0, count)).arrays
        try:
            graph(*(torch.from_numpy(np.array(rows[port.name])) for port in ports))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(
                f"{data.source}: {graph.name} does not run on {count} of these inputs ({reason}); give inputs"
                " as it takes them, or export it for batches of any size"
            ) from error


def _spec(port: Port) -> TensorSpec:
    return TensorSpec(port.name, torch.empty(0, dtype=port.dtype).numpy().dtype, port.shape)
