"""Streaming calibration statistics: one pass over the data, memory bounded by the Grams that were asked
for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.moments import Moments, MomentSum
from otgraph.calibrate.observe import observe
from otgraph.calibrate.slot import Slot
from otgraph.data import Data
from otgraph.errors import DataError
from otgraph.graph.graph import Graph
from otgraph.remark import Remark

MAX_CHANNELS = 8192
"""A Gram of more channels than this (half a gigabyte) is refused."""

Key = tuple[str, int, bytes, int]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was collected: moments per slot (slots that observe the same numbers share them)."""

    moments: Mapping[Key, Moments]
    samples: int = 0
    remarks: tuple[Remark, ...] = field(default=())

    def __contains__(self, slot: Slot) -> bool:
        return slot.key in self.moments

    def of(self, slot: Slot) -> Moments:
        """The moments of ``slot``; ``KeyError`` when not asked for or refused (see remarks)."""
        return self.moments[slot.key]


def collect(graph: Graph, data: Data, requests: Sequence[Slot], batch_size: int = 32) -> Statistics:
    """First and second moments of every slot in ``requests`` over all of ``data``.

    Returns:
        Statistics with one ``Moments`` per distinct slot. A slot of more than ``MAX_CHANNELS`` channels is
        left out, with a remark.

    Raises:
        DataError: the data are empty or do not fit the model.
    """
    sums: dict[Key, MomentSum] = {}
    watched: dict[str, dict[Key, Slot]] = {}
    remarks: list[Remark] = []
    for slot in requests:
        if slot.size > MAX_CHANNELS:
            text = f"{slot.size} channels would need a Gram of {slot.size**2 * 8 >> 20} MB; not calibrated"
            remarks.append(Remark("missed", "calibrate", slot.node, text))
        elif slot.key not in sums:
            sums[slot.key] = MomentSum(slot.size)
            watched.setdefault(slot.node, {})[slot.key] = slot

    def look(name: str, value: torch.Tensor) -> None:
        for key, slot in watched[name].items():
            sums[key].add(slot.view(value))

    samples = 0
    for inputs in feeds(graph, data, batch_size):
        observe(graph, inputs, watched.keys(), look)
        samples += len(inputs[0])
    if not samples:
        raise DataError(f"{data.source}: holds no complete batch of samples; give at least one")
    unseen = [name for name, slots in watched.items() if not sums[next(iter(slots))].count]
    if unseen:
        raise DataError(f"{unseen[0]}: no such value in the graph, so it cannot be observed")
    return Statistics({key: total.value() for key, total in sums.items()}, samples, tuple(remarks))
