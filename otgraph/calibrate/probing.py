"""Which inputs the pull-back runs on, in batches that fit into memory and whose samples can be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otgraph.calibrate.divergence import Outputs
from otgraph.calibrate.feeds import Feed, feeds, fixed_batch
from otgraph.calibrate.metric import Form, OutputMetric
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span_site import shape_of

MEMORY = 384 << 20
"""Bytes of values that one batch may hold: all of them, since the backward pass reads them again."""

MOST = 16
"""Samples of a batch at most; more are no faster."""


@dataclass(frozen=True, eq=False)
class Probing:
    """``batches``: what the graph is called with. ``lead``: whether the samples of a batch lie along the
    first axis of every value, so that each can be priced by itself; where they do not, a call is one sample
    (probes of different samples are independent, so the mean of squares stays what it is, only less
    certain). ``metric``: of the outputs on these inputs."""

    batches: tuple[Feed, ...]
    lead: bool
    metric: OutputMetric

    @property
    def samples(self) -> int:
        """How many inputs there are."""
        return sum(len(batch[0]) for batch in self.batches)

    @property
    def units(self) -> int:
        """How many of them are told apart."""
        return self.samples if self.lead else len(self.batches)

    def parts(self, batch: int) -> int:
        """Into how many units a batch of so many samples falls."""
        return batch if self.lead else 1


def probing(
    graph: Graph, axes: AxisMap, data: Data, form: Form, names: Iterable[str], memory: int = MEMORY
) -> Probing:
    """Batches of ``data`` for a pull-back that looks at the values ``names``."""
    fixed, known = fixed_batch(graph), max(int(graph.example[0].shape[0]), 1) if graph.example else 1
    lead = all(_leads(shape_of(axes, name), known) for name in names)
    size = fixed or (_fitting(axes, known, memory) if lead else 1)
    batches = tuple(feeds(graph, data, size))
    outputs: list[Outputs] = [graph(*batch) for batch in batches]
    return Probing(batches, lead or size == 1, OutputMetric.of(outputs, form))


def _leads(shape: Sequence[int] | None, batch: int) -> bool:
    """Whether the first axis holds the batch, alone or as its outermost part."""
    return shape is not None and len(shape) > 0 and shape[0] % batch == 0 and shape[0] >= batch


def _fitting(axes: AxisMap, batch: int, memory: int) -> int:
    sizes = [[axis.size for axis in result] for results in axes.values.values() for result in results]
    one = 4 * sum(math.prod(each) for each in sizes) / batch
    return min(max(int(memory / max(one, 1.0)), 1), MOST)
