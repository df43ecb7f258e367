"""Streamed sums of spans: what enters (as rows of a regression) against what leaves, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from otgraph.calibrate.batches import Batch
from otgraph.calibrate.normal import Normal
from otgraph.calibrate.observe import observe
from otgraph.calibrate.rows import Sampling, gathered
from otgraph.calibrate.span_rows import Source
from otgraph.graph.graph import Graph
from otgraph.graph.span import Span
from otgraph.graph.span_site import SpanSite
from otgraph.transport.rounding import SINGLE, summed_share

Part = Literal["fit", "held"]
PARTS: tuple[Part, Part] = ("fit", "held")


@dataclass
class RowSums:
    """Σ over rows of x and x xᵀ, shared by the spans with one source: (K,) and (K, K), float64."""

    width: int
    count: int = 0
    x: torch.Tensor = field(init=False)
    xx: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x = torch.zeros(self.width, dtype=torch.float64)
        self.xx = torch.zeros(self.width, self.width, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Count rows (m, K): products in their type, by blocks, sums in float64."""
        self.count += rows.shape[0]
        self.x += rows.sum(0, dtype=torch.float64)
        for block in rows.split(_BLOCK):
            self.xx += block.T @ block

    def plus(self, other: RowSums) -> RowSums:
        """The sums of both."""
        total = RowSums(self.width, self.count + other.count)
        total.x, total.xx = self.x + other.x, self.xx + other.xx
        return total


@dataclass
class TargetSums:
    """Σ over rows of r, x rᵀ, r rᵀ and of y and y² of the exit, for one span.

    ``r``: the exit less the entry where both have one shape (of a residual span the branch's update), else
    the exit.
    """

    width: int
    out: int
    r: torch.Tensor = field(init=False)
    xr: torch.Tensor = field(init=False)
    rr: torch.Tensor = field(init=False)
    y: torch.Tensor = field(init=False)
    y2: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.r, self.y, self.y2 = zeros(self.out), zeros(self.out), zeros(self.out)
        self.xr, self.rr = zeros(self.width, self.out), zeros(self.out, self.out)

    def add(self, rows: torch.Tensor, residuals: torch.Tensor, exits: torch.Tensor) -> None:
        """Count rows (m, K) with their residuals and exits (m, O)."""
        self.r += residuals.sum(0, dtype=torch.float64)
        self.y += exits.sum(0, dtype=torch.float64)
        self.y2 += exits.double().square().sum(0)
        for x, r in zip(rows.split(_BLOCK), residuals.split(_BLOCK), strict=True):
            self.xr += x.T @ r
            self.rr += r.T @ r

    def plus(self, other: TargetSums) -> TargetSums:
        """The sums of both."""
        total = TargetSums(self.width, self.out)
        for name in ("r", "xr", "rr", "y", "y2"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


@dataclass(frozen=True, eq=False)
class SpanSums:
    """The sums of one span over the inputs of one part (``fit`` or ``held``)."""

    rows: RowSums
    targets: TargetSums

    @property
    def normal(self) -> Normal:
        """As normal equations of a correction to the base map; views, not copies."""
        a, b = self.rows, self.targets
        diagonal = b.rr.diagonal()
        return Normal(a.count, a.x[None], b.r[None], a.xx[None], b.xr[None], diagonal[None], self.rounding)

    @property
    def rounding(self) -> float:
        """The part of its mean square below which a variance made of these sums is rounding."""
        return summed_share(SINGLE, _BLOCK)

    def restricted(self, columns: torch.Tensor) -> SpanSums:
        """The same rows with only these ``columns`` of x."""
        rows, targets = RowSums(0, self.rows.count), TargetSums(0, 0)
        rows.width, rows.x = len(columns), self.rows.x[columns]
        rows.xx = self.rows.xx[columns][:, columns]
        for name in ("r", "rr", "y", "y2"):
            setattr(targets, name, getattr(self.targets, name))
        targets.xr = self.targets.xr[columns]
        return SpanSums(rows, targets)

    def plus(self, other: SpanSums) -> SpanSums:
        """The sums of both parts."""
        return SpanSums(self.rows.plus(other.rows), self.targets.plus(other.targets))


@dataclass(frozen=True)
class Watched:
    """A span to be observed, its site, and the rows it is fitted on."""

    span: Span
    site: SpanSite
    source: Source

    @property
    def based(self) -> bool:
        """Whether the whole map is the identity plus the one that is fitted. It is the latter alone where it
        stands for a branch, or where the ends differ in shape."""
        return self.span.branch is None and self.site.same


class SpanCollector:
    """Accumulates the sums of many spans; call ``run`` once."""

    def __init__(self, watched: Sequence[Watched], samples: int, sampling: Sampling) -> None:
        self._samples = samples
        self._sampling = sampling
        self._rows = {source: {part: RowSums(source.width) for part in PARTS} for source in _sources(watched)}
        self._targets = {
            w: {part: TargetSums(w.source.width, w.site.exit) for part in PARTS} for w in watched
        }
        self._made_by: dict[str, list[Source]] = {}
        self._ended_by: dict[str, list[Watched]] = {}
        for source in self._rows:
            self._made_by.setdefault(source.entry, []).append(source)
        for w in watched:
            self._ended_by.setdefault(w.span.exit, []).append(w)

    def run(self, graph: Graph, batches: Iterable[Batch]) -> None:
        """Run ``graph`` over ``batches``; fold 0 is held out."""
        names = self._made_by.keys() | self._ended_by.keys()
        for number, batch in enumerate(batches):
            part: Part = "held" if batch.fold == 0 else "fit"
            pending: dict[Source, tuple[torch.Tensor, torch.Tensor]] = {}
            left = self._uses()

            def look(
                name: str,
                value: torch.Tensor,
                part: Part = part,
                pending: dict[Source, tuple[torch.Tensor, torch.Tensor]] = pending,
                left: dict[Source, int] = left,
                number: int = number,
            ) -> None:
                for w in self._ended_by.get(name, ()):
                    rows, at = pending[w.source]
                    self._end(w, part, rows, gathered(value, w.site.axis, at))
                    left[w.source] -= 1
                    if not left[w.source]:
                        del pending[w.source]
                for source in self._made_by.get(name, ()):
                    at = self._positions(source, value, number)
                    rows = source.rows(value, at)
                    self._rows[source][part].add(rows)
                    pending[source] = rows, at

            observe(graph, batch.inputs, names, look)

    def sums(self, watched: Watched, part: Part) -> SpanSums:
        """What was collected."""
        return SpanSums(self._rows[watched.source][part], self._targets[watched][part])

    def _uses(self) -> dict[Source, int]:
        uses: dict[Source, int] = {}
        for w in self._targets:
            uses[w.source] = uses.get(w.source, 0) + 1
        return uses

    def _positions(self, source: Source, value: torch.Tensor, batch: int) -> torch.Tensor:
        """Flat output positions of this batch."""
        count = self._sampling.count(source.width, self._samples)
        return Sampling.pick(source.positions(value), count, batch)

    def _end(self, w: Watched, part: Part, rows: torch.Tensor, found: torch.Tensor) -> None:
        exits = found.transpose(1, 2).reshape(-1, found.shape[1])
        residuals = exits - rows.index_select(1, w.source.own) if w.site.same else exits
        self._targets[w][part].add(rows, residuals, exits)


def _sources(watched: Sequence[Watched]) -> list[Source]:
    return list(dict.fromkeys(w.source for w in watched))


def widest(watched: Iterable[Watched]) -> list[Watched]:
    """One per span: the one with the largest kernel, whose rows hold those of the others."""
    best: dict[tuple[str, str], Watched] = {}
    for w in watched:
        ends = (w.span.entry, w.span.exit)
        if ends not in best or best[ends].source.width < w.source.width:
            best[ends] = w
    return list(best.values())


def bytes_of(watched: Watched) -> int:
    """Memory of the sums of one span on its own."""
    k, o = watched.source.width, watched.site.exit
    return 16 * (k * k + k * o + o * o)


_BLOCK = 8192
"""Rows whose products are summed in the type of the data before they are added in float64."""
