"""How a graph's outputs are to be read, by what they look like on its own inputs."""

from __future__ import annotations

from itertools import islice

from otgraph.calibrate.divergence import Outputs, arrays_of
from otgraph.calibrate.feeds import feeds
from otgraph.data_model import ModelData
from otgraph.graph.graph import Graph
from otgraph.task import LOOKED_AT, OutputReading, Task, may_be_scores, read_outputs

_AT_ONCE = 16


def read_graph(graph: Graph, data: ModelData, task: Task = "auto") -> OutputReading:
    """Run ``graph`` on some inputs drawn from all of ``data``, and read what comes out.

    Raises:
        UsageError: ``task`` says that the outputs are class scores, and they have no such shape.
    """
    if task == "regression":
        return read_outputs((), task)
    names = [port.name for port in graph.signature.outputs]
    inputs: list[Outputs] = list(feeds(graph, data.take(LOOKED_AT, seed=0), _AT_ONCE))
    if not inputs:  # a draw may leave no fixed batch whole
        inputs += islice(feeds(graph, data, _AT_ONCE), 1)
    outputs = [arrays_of(graph(*feed), names) for feed in inputs[:1]]
    if outputs and may_be_scores(outputs[0]):
        outputs += [arrays_of(graph(*feed), names) for feed in inputs[1:]]
    return read_outputs(outputs, task, [arrays_of(feed) for feed in inputs[: len(outputs)]])
