"""The convolutions and products of a graph, as what can be timed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from otgraph.allocate.cost import evaluate
from otgraph.graph.affine import Affine, affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.expression import Expression
from otgraph.graph.graph import Graph
from otgraph.latency.kernel import Kernel
from otgraph.pricing.elementwise import batch_size, fused_activations
from otgraph.pricing.lengths import expand
from otgraph.window import Window

Candidates = Mapping[str, tuple[int, ...]]
"""The widths that each dim may get, by its name; a dim that is not named keeps its size."""


@dataclass(frozen=True)
class TimedNode:
    """A convolution or product to time: ``kernel`` at full widths; ``reads`` and ``makes`` are the axes of
    its input and its output channels, over dims (of a depthwise convolution the same)."""

    name: str
    kernel: Kernel
    reads: Expression
    makes: Expression

    def lengths(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """How many inputs and outputs there are at ``widths``, which name the dims that vary."""
        inputs, outputs = (evaluate(expand(axis, widths), widths) for axis in (self.reads, self.makes))
        return max(round(inputs), 1), max(round(outputs), 1)

    def varying(self, candidates: Candidates) -> tuple[str, ...]:
        """The dims its time depends on."""
        names = (*self.reads.dims(), *self.makes.dims())
        return tuple(dict.fromkeys(name for name in names if name in candidates))


def timed_nodes(graph: Graph, axes: AxisMap) -> tuple[TimedNode, ...]:
    """The convolutions and products of ``graph``, in program order."""
    activations = fused_activations(graph)
    return tuple(_timed(graph, axes, view, activations) for view in affine_nodes(graph))


def kernel_of(graph: Graph, window: Window, shape: Sequence[int]) -> Kernel:
    """A node of that geometry as something that can be timed alone, at batch 1. ``shape``: of what it reads,
    on the example of ``graph``."""
    if window.axis == 1:
        return Kernel.of(window, shape[2:])
    return Kernel.of(window, (max(prod(shape[:-1]) // batch_size(graph), 1),))


def _timed(graph: Graph, axes: AxisMap, view: Affine, activations: Mapping[str, str]) -> TimedNode:
    shape = [axis.size for axis in axes.values[view.data.name][0]]
    kernel = kernel_of(graph, view.window, shape)
    kernel = replace(kernel, activation=activations.get(view.node.name, ""))
    weight = axes.tensors[view.weight]
    outer, inner = (0, 1) if view.layout == "oi" else (1, 0)
    reads = weight[outer] if kernel.kind == "depthwise" else weight[inner]
    return TimedNode(view.node.name, kernel, reads, weight[outer])
