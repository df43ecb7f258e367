"""Collapses to choose from: what each removes, what takes its place, what that saves, and what it damages."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import NodeTime, Polynomial
from otgraph.allocate.option import Option, absorbed_by
from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.span_fit import SpanFit, fit_collapses
from otgraph.calibrate.span_screen import screen
from otgraph.engines.engine import Engine
from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.span import Collapse
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import Study
from otgraph.optimize.trial import Trial
from otgraph.pricing.effect import ActivationEffects, Effect, span_effect
from otgraph.pricing.timing import Candidates, affine_times
from otgraph.remark import Remark

SOURCE = "depth"

LEAST_GAIN = 0.01
"""Of the original's time: a collapse that is predicted to save less is not worth a trial."""


MOST = 64
"""So many collapses are fitted at most."""

SCREENED = 32
"""Inputs that bounds are computed on."""


@dataclass(frozen=True, eq=False)
class DepthCandidate:
    """A fitted collapse; the nodes that go, the times of those that come, the dims that go with them; and the
    milliseconds of both at full widths."""

    fit: SpanFit
    removes: frozenset[str]
    adds: tuple[NodeTime, ...]
    absorbs: frozenset[str]
    old_ms: float
    new_ms: float

    @property
    def name(self) -> str:
        """That of the collapse."""
        return self.fit.collapse.name

    @property
    def promise(self) -> float:
        """Milliseconds saved per part of the span's work that the map does not reproduce."""
        return (self.old_ms - self.new_ms) / (0.02 + min(self.fit.effect, 2.0))

    def option(self, damage: float) -> Option:
        """The candidate as the allocation sees it."""
        return Option(self.name, damage, self.removes, self.adds, self.absorbs)


@dataclass(frozen=True)
class _Worth:
    """A collapse that is predicted to save time."""

    collapse: Collapse
    removes: frozenset[str]
    adds: tuple[NodeTime, ...]
    old_ms: float
    new_ms: float


def find_candidates(
    found: Study,
    engine: Engine,
    nodes: Sequence[NodeTime],
    fixed: Polynomial,
    settings: Settings,
    candidates: Candidates,
) -> tuple[tuple[DepthCandidate, ...], tuple[Remark, ...]]:
    """The collapses of the network that are predicted to save time on ``engine``, the most promising first.

    Args:
        nodes, fixed: the times of the nodes as they are and what no removal saves, as ``node_times`` gives
            them.
        candidates: the widths that each dim may get.
    """
    graph, axes = found.graph, found.axes
    effects = {c: e for c, e in _effects(found, settings) if e is not None and _joins(axes, c, candidates)}
    if not effects:
        return (), ()
    times = _new_times(found, engine, effects, settings, candidates)
    full = {name: width.size for name, width in found.widths.items()}
    known = {node.node: node for node in nodes}
    least = LEAST_GAIN * sum(node.at(full) for node in nodes)
    worth: dict[tuple[frozenset[str], str], _Worth] = {}
    products = {view.node.name for view in affine_nodes(graph)}
    for collapse, effect in effects.items():
        adds, removes = times.get(collapse), effect.removes.intersection(known)
        if adds is None or not removes:
            continue
        old, new = sum(known[n].at(full) for n in removes), sum(node.at(full) for node in adds)
        key = removes & products, collapse.map
        rival = worth.get(key)
        smaller = rival is None or len(collapse.span.nodes) < len(rival.collapse.span.nodes)
        if old - new >= least and smaller:  # of spans with the same products, the one that leaves most alone
            worth[key] = _Worth(collapse, removes, adds, old, new)
    chosen, discarded = _hopeful(found, list(worth.values()), products)
    settings.progress(f"fitting {len(chosen)} maps")
    fits = fit_collapses(graph, found.fit, [each.collapse for each in chosen], axes=axes)
    made = [
        DepthCandidate(
            fits[each.collapse.name],
            each.removes,
            each.adds,
            absorbed_by(each.removes, nodes, fixed) & full.keys(),
            each.old_ms,
            each.new_ms,
        )
        for each in chosen
        if each.collapse.name in fits
    ]
    text = f"{len(worth)} of {len(effects)} collapses would save time; {discarded} are beyond hope by a bound"
    said = Remark("analysis", SOURCE, graph.name, f"{text}; {len(made)} were fitted")
    return tuple(sorted(made, key=lambda c: -c.promise)), (said,)


def _hopeful(found: Study, worth: Sequence[_Worth], products: Collection[str]) -> tuple[list[_Worth], int]:
    """The most promising of ``worth``, and how many a lower bound of their error rules out.

    Time saved grows with the products that go, damage much faster than that, so short spans come first.
    """
    few = split_batches(found.graph, found.fit, 1, limit=SCREENED)
    bounds = screen(found.graph, found.axes, few, [each.collapse for each in worth])
    left = [w for w in worth if w.collapse.name not in bounds or not bounds[w.collapse.name].discarded]
    left.sort(key=lambda w: (w.new_ms - w.old_ms) / max(len(w.removes.intersection(products)), 1) ** 2)
    return left[:MOST], len(worth) - len(left)


def try_candidates(
    trial: Trial, candidates: Sequence[DepthCandidate], seconds: float, settings: Settings
) -> tuple[Option, ...]:
    """Each candidate with the damage it alone does to the outputs, repaired and judged on held-out inputs.

    Those that ``seconds`` of CPU time do not suffice for are left out, the least promising first.
    """
    started = time.process_time()
    options: list[Option] = []
    for number, candidate in enumerate(candidates, 1):
        if time.process_time() - started > seconds:
            break
        settings.progress(f"trying without {candidate.fit.collapse.span.name} ({number}/{len(candidates)})")
        options.append(candidate.option(trial.damage(Choice({}, (candidate.name,)))))
    return tuple(options)


def _joins(axes: AxisMap, collapse: Collapse, candidates: Candidates) -> bool:
    """Whether the map can stand whatever is cut: one channel to one channel needs one dim at both ends."""
    if collapse.map not in ("identity", "affine"):
        return True
    span = collapse.span
    ends = [axes.values[name][0] for name in (span.entry, span.branch or span.exit)]
    cut = [tuple(axis for axis in end if axis.dims() & candidates.keys()) for end in ends]
    return cut[0] == cut[1]


def _effects(found: Study, settings: Settings) -> Iterator[tuple[Collapse, Effect | None]]:
    """Every collapse that there is, with its effect."""
    graph, axes = found.graph, found.axes
    for collapse in find_collapses(graph, axes, find_spans(graph, axes)):
        if collapse.map != "affine":  # a factor per channel in the place of products reproduces too little
            yield collapse, span_effect(graph, axes, collapse)
    linear = ActivationEffects(graph, axes)
    settings.progress("which activations could go")
    for collapse in find_collapses(graph, axes, activation_nodes(graph, axes)):
        if collapse.map == "affine":
            yield collapse, linear.of(collapse)


def _new_times(
    found: Study,
    engine: Engine,
    effects: Mapping[Collapse, Effect],
    settings: Settings,
    candidates: Candidates,
) -> dict[Collapse, tuple[NodeTime, ...]]:
    """The times of the nodes that each collapse adds; those are left out of which one cannot be timed."""
    nodes = [node for effect in effects.values() for node in effect.adds]
    times = affine_times(nodes, engine, settings.timing, candidates)
    return {
        collapse: tuple(times[node.name] for node in effect.adds)
        for collapse, effect in effects.items()
        if all(node.name in times for node in effect.adds)
    }
