"""``Prices``: what every candidate does to the outputs, read off the same backward passes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.output_gain import input_edge
from otgraph.calibrate.probing import Probing
from otgraph.calibrate.pullback import Edge, pull_back
from otgraph.calibrate.span_fit import SpanFit
from otgraph.calibrate.width import Width
from otgraph.graph.graph import Graph
from otgraph.pricing.collapse_prices import CollapsePricer
from otgraph.pricing.width_prices import WidthPricer
from otgraph.remark import Remark

Vector = npt.NDArray[np.float64]
Key = tuple[str, int] | str
"""A dim at a width, or a collapse by its name."""


@dataclass(frozen=True, eq=False)
class Prices:
    """``effects``: the vector of each candidate, one number per probe and input, scaled so that its squared
    norm is the damage (see ``OutputMetric``), that of a sum of vectors that of both changes at once.
    ``units``: which input each of the numbers is of.
    ``unpriced``: those that no gradient tells of, with the reason. ``remarks``: what to say of it."""

    effects: Mapping[Key, Vector]
    units: npt.NDArray[np.int64]
    unpriced: Mapping[Key, str]
    remarks: tuple[Remark, ...] = ()
    cpu_seconds: float = 0.0

    def of(self, key: Key) -> float:
        """The first-order damage of one candidate."""
        vector = self.effects[key]
        return float(vector @ vector)

    def error(self, key: Key) -> float:
        """The standard error of ``of(key)``, from the spread over probes and inputs."""
        squares = np.square(self.effects[key])
        n = len(squares)
        return float(squares.std(ddof=1)) * math.sqrt(n) if n > 1 else float(squares.sum())


def price(
    graph: Graph,
    widths: Mapping[str, Width],
    candidates: Mapping[str, Sequence[int]],
    fits: Sequence[SpanFit],
    probing: Probing,
    *,
    probes: int = 4,
    seed: int = 0,
) -> Prices:
    """Price all ``candidates`` of ``widths`` and the collapses ``fits`` on the inputs of ``probing``.

    What comes out is the same for the same seed.
    """
    started = time.process_time()
    by_width = WidthPricer(widths, candidates, probing)
    by_collapse = CollapsePricer(fits, probing)
    wanted = frozenset[Edge]().union(*by_width.edges.values()) | by_collapse.observed
    reach = pull_back(
        graph, probing.batches, probing.metric, wanted, _Both(by_width, by_collapse), probes=probes, seed=seed
    )
    why = reach.error or "no gradient arrives"
    if reach.blocked and not reach.error:
        why = f"no gradient runs through {reach.blocked[0]}"
    effects: dict[Key, Vector] = {}
    unpriced: dict[Key, str] = {}
    shares = _shares(probing, probes)
    for name, edges in by_width.edges.items():
        found = by_width.effects(name)
        for k, t in found.items():
            _file((name, k), _each(t, shares), edges <= reach.edges, why, effects, unpriced)
    for name, edge in by_collapse.edges.items():
        failure = by_collapse.failures.get(name)
        seen = edge in reach.edges and failure is None
        _file(name, _each(by_collapse.effects(name), shares), seen, failure or why, effects, unpriced)
    units: list[int] = []
    for batch in probing.batches:
        parts, start = probing.parts(len(batch[0])), max(units, default=-1) + 1
        units += [*range(start, start + parts)] * probes
    return Prices(
        effects, np.array(units, np.int64), unpriced, _remarks(graph, unpriced), time.process_time() - started
    )


def _each(effects: Vector, shares: Vector) -> Vector:
    """The effects of single samples; none where the passes broke off."""
    return effects * shares if len(effects) == len(shares) else np.zeros(0)


def _shares(probing: Probing, probes: int) -> Vector:
    """What each number is multiplied by, so that its square is of one sample: where the samples of a call
    cannot be told apart, their independent effects have added up."""
    found: list[float] = []
    for batch in probing.batches:
        samples, parts = len(batch[0]), probing.parts(len(batch[0]))
        found += [(parts / samples) ** 0.5] * (parts * probes)
    return np.array(found, np.float64)


def edges_of(widths: Mapping[str, Width], fits: Sequence[SpanFit]) -> frozenset[str]:
    """The values that prices look at."""
    names = {input_edge(reader).value for width in widths.values() for reader in width.readers}
    for fit in fits:
        span = fit.collapse.span
        names |= {span.entry, span.branch or span.exit}
    return frozenset(names)


class _Both:
    """Two observers as one."""

    def __init__(self, *observers: WidthPricer | CollapsePricer) -> None:
        self._observers = observers

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        for observer in self._observers:
            observer.begin(values, samples)

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        for observer in self._observers:
            observer.probe(gradients)


def _file(
    key: Key,
    t: Vector,
    seen: bool,  # noqa: FBT001
    why: str,
    effects: dict[Key, Vector],
    unpriced: dict[Key, str],
) -> None:
    if not seen:
        unpriced[key] = why
    elif not np.isfinite(t).all():
        unpriced[key] = "its effect is not finite"
    elif not t.any():
        unpriced[key] = "the gradient is zero everywhere"
    else:
        effects[key] = t / math.sqrt(len(t))


def _remarks(graph: Graph, unpriced: Mapping[Key, str]) -> tuple[Remark, ...]:
    if not unpriced:
        return ()
    reasons: dict[str, int] = {}
    for why in unpriced.values():
        reasons[why] = reasons.get(why, 0) + 1
    return tuple(
        Remark("missed", "prices", graph.name, f"{count} candidates cannot be priced and are tried: {why}")
        for why, count in reasons.items()
    )
