"""Means of what readers read, in one pass that keeps nothing but sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.observe import observe
from otgraph.calibrate.slot import Slot
from otgraph.graph.graph import Graph

Place = tuple[str, int]


def collect_means(
    graph: Graph, batches: Iterable[Feed], slots: Sequence[Slot]
) -> list[npt.NDArray[np.float64]]:
    """The mean of each channel of each slot over samples, positions and replicas; shapes (n,), in order.

    No slot may name a value that the graph does not compute (``KeyError``).
    """
    sums: dict[Place, torch.Tensor] = {}
    counts: dict[Place, int] = {}
    axes: dict[str, set[int]] = {}
    for slot in slots:
        axes.setdefault(slot.node, set()).add(slot.axis)

    def look(name: str, value: torch.Tensor) -> None:
        for axis in axes[name]:
            rows = value.movedim(axis, 0).flatten(1) if value.dim() > 1 else value.unsqueeze(1)
            total = rows.sum(1, dtype=torch.float64)
            place = (name, axis)
            sums[place] = sums[place] + total if place in sums else total
            counts[place] = counts.get(place, 0) + rows.shape[1]

    for inputs in batches:
        observe(graph, inputs, axes.keys(), look)
    means = {place: (total / counts[place]).numpy() for place, total in sums.items()}
    return [means[slot.node, slot.axis][slot.positions].mean(0) for slot in slots]
