"""Who reads a dim: the nodes that contract it, where it lies in their input, and their weights for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.collect import Statistics
from otgraph.calibrate.slot import Slot
from otgraph.graph.affine import Affine, affine_nodes, read_weight
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.occurrences import occurrences
from otgraph.graph.graph import Graph, op_name
from otgraph.transport.cost import Reading


@dataclass(frozen=True, eq=False)
class Reader:
    """One reader of a dim. ``slot``: where its input holds the dim. ``affine`` and ``columns`` (r, n): the
    node and where the input axis of its weight holds the dim; None and empty where the dim is contracted by
    something that has no weight (attention scores), which is then taken to read with weight one. ``absorbs``:
    a constant per output can be taken up by a bias or by the batch norm that follows."""

    name: str
    slot: Slot
    affine: Affine | None
    columns: npt.NDArray[np.int64]
    absorbs: bool = False


def find_readers(graph: Graph, axes: AxisMap) -> dict[str, tuple[Reader, ...]]:
    """The readers of every prunable dim, by dim name; never empty."""
    found: dict[str, list[Reader]] = {dim.name: [] for dim in axes.prunable()}
    for affine in affine_nodes(graph):
        for name in axes.tensors[affine.weight][_input_axis(affine)].dims():
            reader = _affine_reader(graph, axes, affine, axes.dims[name]) if name in found else None
            if reader is not None:
                found[name].append(reader)
    return {
        name: tuple(readers) or _bare_reader(graph, axes, axes.dims[name]) for name, readers in found.items()
    }


def read_channels(graph: Graph, reader: Reader, statistics: Statistics) -> Reading:
    """The reader's moments and gain, as the transport analysis takes them."""
    moments = statistics.of(reader.slot)
    return Reading(
        reader.name,
        moments.second,
        gain(graph, reader),
        mean=moments.mean,
        centered=reader.absorbs,
        rounding=moments.rounding,
    )


def gain(graph: Graph, reader: Reader) -> npt.NDArray[np.float64]:
    """H = Σ over taps, outputs and replicas of WᵀW over the dim's channels, shape (n, n)."""
    n = reader.slot.size
    if reader.affine is None:
        return np.eye(n)
    weight = read_weight(graph, reader.affine).double()
    rows = weight.transpose(0, 1).reshape(weight.shape[1], -1)
    total = torch.zeros(n, n, dtype=torch.float64)
    for positions in reader.columns:
        part = rows[torch.from_numpy(positions)]
        total += part @ part.T
    return total.numpy()


def slots(readers: Mapping[str, tuple[Reader, ...]]) -> list[Slot]:
    """Everything that has to be observed."""
    return [reader.slot for group in readers.values() for reader in group]


def _input_axis(affine: Affine) -> int:
    return 1 if affine.layout == "oi" else 0


def _affine_reader(graph: Graph, axes: AxisMap, affine: Affine, dim: Dim) -> Reader | None:
    value = axes.values[affine.data.name][0][affine.axis]
    columns = occurrences(axes.tensors[affine.weight][_input_axis(affine)], dim.name, dim.size)
    positions = occurrences(value, dim.name, dim.size)
    if not len(columns) or not len(positions):
        return None
    slot = Slot(affine.data.name, affine.axis, positions)
    return Reader(affine.weight, slot, affine, columns, absorbs=_absorbs(affine))


def _absorbs(affine: Affine) -> bool:
    if affine.bias is not None:
        return True
    users = list(affine.output.users)
    return len(users) == 1 and op_name(users[0]) in ("aten.batch_norm", "onnx.BatchNormalization")


def _bare_reader(graph: Graph, axes: AxisMap, dim: Dim) -> tuple[Reader, ...]:
    """The last value that holds the dim, read as it is: for dims that only attention or a gate contracts."""
    place: tuple[str, int] | None = None
    for node in graph.module.graph.nodes:
        results = axes.values.get(node.name, ())
        if node.op != "call_function" or len(results) != 1:
            continue
        for number, axis in enumerate(results[0]):
            if dim.name in axis.dims() and len(occurrences(axis, dim.name, dim.size)):
                place = (node.name, number)
    if place is None:
        return ()
    axis = axes.values[place[0]][0][place[1]]
    slot = Slot(place[0], place[1], occurrences(axis, dim.name, dim.size))
    return (Reader(place[0], slot, None, np.zeros((0, dim.size), np.int64)),)
