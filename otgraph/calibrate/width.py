"""The width analysis: for every prunable dim the whole curve of what keeping k channels costs its readers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.calibrate.collect import Statistics, collect
from otgraph.calibrate.metric import Form
from otgraph.calibrate.output_gain import output_gains
from otgraph.calibrate.probing import probing
from otgraph.calibrate.readers import Reader, find_readers, read_channels, slots
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.occurrences import occurrences
from otgraph.graph.graph import Graph
from otgraph.graph.notes import Note
from otgraph.graph.quantized import real_values
from otgraph.remark import Remark
from otgraph.transport.bound import certify
from otgraph.transport.cost import IntArray, Reading
from otgraph.transport.coupling import Coupling
from otgraph.transport.criteria.catalog import criterion as find_criterion
from otgraph.transport.criteria.criterion import ChannelStatistics
from otgraph.transport.curve import RateDistortion
from otgraph.transport.problem import SelectionProblem, rerouting_problem
from otgraph.transport.selection import couple, refine

DEFAULT_CRITERION = "cholesky"
"""What did best after a repair on inputs it had not seen: ``python tools/bench_width.py``."""

REROUTING = "rerouting"

GAIN_INPUTS = 16
"""Inputs that the readers' gains are pulled back on."""


@dataclass(frozen=True, eq=False)
class Width:
    """The channels of one dim: its readers, their readings, and the curve of a criterion."""

    dim: str
    readers: tuple[Reader, ...]
    readings: tuple[Reading, ...]
    curve: RateDistortion
    criterion: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Width:
        return self  # a value; copies of a graph share it

    @property
    def size(self) -> int:
        """The number of channels."""
        return self.curve.size

    @property
    def constant(self) -> int:
        """How many channels never varied on the calibration inputs, for any reader."""
        return int(np.all([reading.constant() for reading in self.readings], axis=0).sum())

    def problem(self) -> SelectionProblem:
        """The re-routing problem of the dim."""
        return rerouting_problem(self.readings)

    def choose(self, k: int) -> IntArray:
        """The k channels to keep: those of the curve; under the re-routing criterion refined by swaps."""
        kept = self.curve.kept(k)
        if self.criterion != REROUTING or k in (0, self.size):
            return kept
        return refine(self.problem(), kept)

    def coupling(self, kept: IntArray, *, certified: bool = True) -> Coupling:
        """Where the mass of every channel goes when ``kept`` stay, with a certified lower bound if wanted."""
        problem = self.problem()
        bound = certify(problem, kept).bound if certified else 0.0
        routable = [
            r for r, reader in zip(self.readings, self.readers, strict=True) if reader.affine is not None
        ]
        return couple(problem, kept, routable, bound)


WIDTH: Note[Mapping[str, Width]] = Note("width")
"""On the node that writes a dim, by its name; what ``annotate-width`` leaves."""


@dataclass(frozen=True, eq=False)
class WidthAnalysis:
    """The widths of a graph's prunable dims by name, their statistics, and what was left out."""

    widths: Mapping[str, Width]
    statistics: Statistics
    remarks: tuple[Remark, ...]
    cpu_seconds: float


def analyze_width(
    graph: Graph,
    axes: AxisMap,
    data: Data,
    criterion: str = DEFAULT_CRITERION,
    seed: int = 0,
    batch_size: int = 32,
    form: Form | None = "values",
) -> WidthAnalysis:
    """Calibrate on ``data`` and compute the curve of every prunable dim of ``axes``.

    ``form``: how the outputs are read, by which the readers' gains are pulled back (``output_gain``), so that
    costs are damages at the outputs. None: gains are the readers' own squared weights, as they are where no
    gradient arrives.

    Raises:
        DataError: the data do not fit the model. UsageError: no such criterion.
    """
    started = time.process_time()
    strategy = find_criterion(criterion)
    readers = find_readers(graph, axes)
    statistics = collect(graph, data, slots(readers), batch_size)
    remarks = list(statistics.remarks)
    widths: dict[str, Width] = {}
    readers = {n: tuple(r for r in group if r.slot in statistics) for n, group in readers.items()}
    gains = {} if form is None else _gains(graph, axes, readers, data, form, seed)
    for name, group in readers.items():
        if not group:
            remarks.append(
                Remark("missed", "width", name, "nothing that reads it could be observed; kept whole")
            )
            continue
        readings = tuple(read_channels(graph, reader, statistics) for reader in group)
        if name in gains:
            pairs = zip(readings, gains[name], strict=True)
            readings = tuple(replace(reading, gain=gain) for reading, gain in pairs)
        elif form is not None:
            text = "no gradient arrives: its costs are in units of its readers' outputs"
            remarks.append(Remark("analysis", "width", name, text))
        writers = _writers(graph, axes, name) if strategy.reads_writers else None
        curve = strategy.curve(ChannelStatistics(readings, writers=writers, seed=seed))
        widths[name] = Width(name, group, readings, curve, criterion)
        remarks += _constants(widths[name])
    return WidthAnalysis(widths, statistics, tuple(remarks), time.process_time() - started)


def _constants(width: Width) -> list[Remark]:
    """What the calibration inputs leave open: channels that they never move."""
    if not width.constant:
        return []
    text = f"{width.constant} of {width.size} channels are constant on the calibration inputs"
    text = f"{text}; other inputs may move them"
    return [Remark("analysis", "width", width.dim, text, {"constant": width.constant})]


def _gains(
    graph: Graph,
    axes: AxisMap,
    readers: Mapping[str, tuple[Reader, ...]],
    data: Data,
    form: Form,
    seed: int,
) -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
    """The gains of each dim's readers at the outputs; dims are left out of which not all have one, since
    those of one dim must be in one unit."""
    names = [reader.slot.node for group in readers.values() for reader in group]
    found = output_gains(
        graph, readers, probing(graph, axes, data.take(GAIN_INPUTS, seed), form, names), seed=seed
    )
    whole: dict[str, tuple[npt.NDArray[np.float64], ...]] = {}
    for name, group in found.items():
        known = tuple(gain for gain in group if gain is not None and np.isfinite(gain).all() and gain.any())
        if group and len(known) == len(group):
            whole[name] = known
    return whole


def _writers(graph: Graph, axes: AxisMap, name: str) -> npt.NDArray[np.float64] | None:
    """The weights that make the channels, flattened side by side, (n, fan_in); None where not plain."""
    dim = axes.dims[name]
    rows: list[npt.NDArray[np.float64]] = []
    for port in dim.ports:
        tensor = real_values(graph, port.tensor)
        if port.role != "writes" or tensor.dim() < 2:
            continue
        positions = occurrences(axes.tensors[port.tensor][port.axis], name, dim.size)
        flat = tensor.movedim(port.axis, 0).reshape(tensor.shape[port.axis], -1).double().numpy()
        rows += [flat[where] for where in positions]
    return np.concatenate(rows, axis=1) if rows else None
