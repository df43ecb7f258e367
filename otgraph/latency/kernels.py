"""How long single convolutions and matrix products take on an engine, over a grid of their widths.

A node's time is no multiple of its MACs, nor any smooth function of its widths: the engine computes blocks of
channels, narrow layers use the vector units badly, depthwise ones are bound by memory. So each distinct node
is timed by itself at all the widths it may get, or at a coarse grid of them where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from otgraph.engines.engine import Engine
from otgraph.errors import ModelError
from otgraph.latency.clock import Clock
from otgraph.latency.kernel import Kernel
from otgraph.latency.kernel_clock import MACS_PER_MS, read_costs, reference_ms
from otgraph.latency.kernel_table import KernelTable, Point
from otgraph.latency.table import LatencyTable

FINE = 4
"""Up to this many widths of an axis are all measured."""

COARSE = (0, 2 / 15, 6 / 15, 1)
"""Which of more widths are measured, by position: dense near the full width, where mild budgets are
decided."""


@dataclass(frozen=True)
class Grid:
    """The widths of the inputs and of the outputs to know a kernel's time at."""

    inputs: frozenset[int]
    outputs: frozenset[int]

    def __or__(self, other: Grid) -> Grid:
        return Grid(self.inputs | other.inputs, self.outputs | other.outputs)

    def points(self, kernel: Kernel) -> list[Point]:
        """The combinations to measure: all of them; of a coarse grid, where both axes have many widths, those
        that ``KernelTable.of`` completes it from."""
        inputs, outputs = thinned(self.inputs), thinned(self.outputs)
        if kernel.kind == "depthwise":
            return [(width, width) for width in outputs]
        coarse = len(inputs) == len(outputs) == FINE and max(len(self.inputs), len(self.outputs)) > FINE
        found = product(enumerate(inputs), enumerate(outputs))
        return [(i, o) for (a, i), (b, o) in found if not coarse or 0 in (a, b) or a == b]


def thinned(widths: Iterable[int]) -> tuple[int, ...]:
    """The widths that are measured, descending, both ends among them."""
    found = sorted(set(widths), reverse=True)
    if len(found) <= FINE:
        return tuple(found)
    return tuple(found[round(share * (len(found) - 1))] for share in COARSE)


def time_kernels(
    engine: Engine,
    wanted: Mapping[Kernel, Grid],
    *,
    threads: int = 1,
    table: LatencyTable | None = None,
    clock: Clock | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Kernel, KernelTable]:
    """Time every kernel over its grid, those points aside that ``table`` knows. A kernel that the engine
    cannot run by itself is left out. On engines of which single nodes tell nothing (``times_kernels``) a
    kernel is priced by its multiply–accumulates, at a rate that is the same for all."""
    if not engine.times_kernels:
        return {kernel: _by_macs(kernel, grid) for kernel, grid in wanted.items()}
    found: dict[Kernel, KernelTable] = {}
    clock = clock or Clock()
    for number, (kernel, grid) in enumerate(wanted.items(), 1):
        points = grid.points(kernel)
        known = {} if table is None else table.load(kernel)
        missing = [point for point in points if point not in known]
        try:
            if missing:
                progress(f"timing node {number} of {len(wanted)}")
                read = read_costs(engine, [kernel.at(*point) for point in missing], threads, clock)
                known = {**known, **dict(zip(missing, read, strict=True))}
            unit = reference_ms(engine, threads, clock)
        except ModelError:
            continue
        if missing and table is not None:
            table.store(kernel, {point: known[point] for point in missing})
        found[kernel] = KernelTable.of({point: unit * known[point] for point in points})
    return found


def _by_macs(kernel: Kernel, grid: Grid) -> KernelTable:
    return KernelTable.of({point: kernel.at(*point).macs / MACS_PER_MS for point in grid.points(kernel)})
