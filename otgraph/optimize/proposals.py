"""Collapses to choose from: what each removes, what takes its place, and what that saves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from otgraph.allocate.cost import Polynomial, TimeTerm
from otgraph.allocate.option import Option, absorbed_by
from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.span_fit import FitOptions, SpanFit, fit_collapses
from otgraph.calibrate.span_screen import screen
from otgraph.data import Data
from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.span_site import site_of
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.optimize.settings import Settings
from otgraph.pricing.effect import ActivationEffects, Effect, span_effect
from otgraph.pricing.timed_node import Candidates, TimedNode

LEAST_GAIN = 0.01
"""Of the original's time: a collapse that is predicted to save less is not worth a look."""

MOST = 64
"""So many maps are fitted at most; deletions need no fit and are all looked at."""

HEAVIEST = 1.5
"""An inverted residual that becomes one dense 3×3 convolution of as many multiplications is twice as fast or
more on the measured CPUs (depthwise nodes are bound by memory); at half as many more it is no faster."""

SCREENED = 8
"""Inputs that bounds are computed on."""

FITTED = 96
"""Inputs that maps are fitted on."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """One collapse from its effect to the allocation's option: the nodes that go, the times of those that
    come, the dims that go with them, the milliseconds of both at full widths, how many products come, and the
    node that they stand for."""

    collapse: Collapse
    removes: frozenset[str]
    adds: tuple[TimeTerm, ...] = ()
    absorbs: frozenset[str] = frozenset()
    old_ms: float = 0.0
    new_ms: float = 0.0
    added: int = 0
    fit: SpanFit | None = None

    @property
    def name(self) -> str:
        """That of the collapse."""
        return self.collapse.name

    @property
    def saved(self) -> float:
        """Milliseconds, at full widths."""
        return self.old_ms - self.new_ms

    @property
    def end(self) -> str:
        """The node whose value is the map's once it is in place."""
        return self.collapse.span.branch or self.collapse.span.exit

    def option(self, damage: float) -> Option:
        """The proposal as the allocation sees it."""
        return Option(self.name, damage, self.removes, self.adds, self.absorbs)


@dataclass(frozen=True)
class Found:
    """``effects``: the collapses that there are with what each does to the program. ``proposals``: those that
    save enough and are not ruled out, fitted; ``worth``: how many would save enough, ``ruled_out``: how many
    of these a lower bound of their error discards, ``left``: how many were left for being too many."""

    effects: Mapping[Collapse, Effect]
    proposals: tuple[Proposal, ...] = ()
    worth: int = 0
    ruled_out: int = 0
    left: int = 0


def find_effects(
    graph: Graph, axes: AxisMap, candidates: Candidates, settings: Settings
) -> dict[Collapse, Effect]:
    """Every collapse that there is, and what it does to the program.

    ``candidates``: the widths that each dim may get; a map of one channel to one channel needs one dim at
    both ends, or it could not stand whatever is cut.
    """
    found = _effects(graph, axes, settings)
    return {c: effect for c, effect in found if effect is not None and _joins(axes, c, candidates)}


def lighter(effects: Mapping[Collapse, Effect], macs: Mapping[str, float]) -> dict[Collapse, Effect]:
    """The collapses whose new nodes multiply no more than ``HEAVIEST`` times what those did that go: no
    engine is so much better at the one that more would pay, and timing it would cost.

    ``macs``: multiply-accumulates of the nodes for one input.
    """
    found: dict[Collapse, Effect] = {}
    for collapse, effect in effects.items():
        old = sum(macs.get(name, 0.0) for name in effect.removes)
        if sum(node.kernel.macs for node in effect.adds) <= HEAVIEST * old:
            found[collapse] = effect
    return found


def new_nodes(effects: Mapping[Collapse, Effect]) -> list[TimedNode]:
    """The nodes that collapses add, to be timed."""
    return [node for effect in effects.values() for node in effect.adds]


def propose(
    effects: Mapping[Collapse, Effect],
    graph: Graph,
    nodes: Sequence[TimeTerm],
    fixed: Polynomial,
    times: Mapping[str, TimeTerm],
    full: Mapping[str, int],
) -> tuple[Proposal, ...]:
    """The collapses that are predicted to save time, or that leave fewer products, not fitted yet.

    Of spans with the same products the one that leaves most of the program alone stands for all.

    Args:
        nodes, fixed: the times of the nodes as they are and what no removal saves.
        times: of the nodes that collapses add, by name.
        full: the widths of all dims.
    """
    known = {node.node: node for node in nodes}
    products = {view.node.name for view in affine_nodes(graph)}
    best: dict[tuple[frozenset[str], str, str], Proposal] = {}
    for collapse, effect in effects.items():
        removes = effect.removes.intersection(known)
        if not removes or any(node.name not in times for node in effect.adds):
            continue
        adds = tuple(times[node.name] for node in effect.adds)
        old, new = sum(known[n].at(full) for n in removes), sum(node.at(full) for node in adds)
        absorbs = absorbed_by(removes, nodes, fixed) & full.keys()
        proposal = Proposal(collapse, removes, adds, absorbs, old, new, len(adds))
        key = removes & products, collapse.map, collapse.estimator
        rival = best.get(key)
        if rival is None or len(collapse.span.nodes) < len(rival.collapse.span.nodes):
            best[key] = proposal
    return tuple(best.values())


def saving(proposals: Sequence[Proposal], whole_ms: float) -> tuple[Proposal, ...]:
    """Those that save at least ``LEAST_GAIN`` of ``whole_ms``."""
    return tuple(p for p in proposals if p.saved >= LEAST_GAIN * whole_ms)


def shallower(proposals: Sequence[Proposal], graph: Graph) -> tuple[Proposal, ...]:
    """Those that take away more products than they bring."""
    products = {view.node.name for view in affine_nodes(graph)}
    return tuple(p for p in proposals if len(p.removes & products) > p.added)


def fitted(
    proposals: Sequence[Proposal], graph: Graph, axes: AxisMap, data: Data, settings: Settings
) -> tuple[tuple[Proposal, ...], int, int]:
    """``proposals`` with their maps; how many a lower bound of their error rules out; and how many are left
    out because there are more than ``MOST``: time saved grows with the products that go, damage much faster
    than that, so short spans come first."""
    products = {view.node.name for view in affine_nodes(graph)}
    few = split_batches(graph, data, 1, limit=SCREENED, seed=settings.seed)
    bounds = screen(graph, axes, few, [each.collapse for each in proposals])
    open_ = [p for p in proposals if p.name not in bounds or not bounds[p.name].discarded]
    deleted = [p for p in open_ if p.collapse.map == "identity"]
    maps = [p for p in open_ if p.collapse.map != "identity"]
    maps.sort(key=lambda p: -p.saved / max(len(p.removes.intersection(products)), 1) ** 2)
    chosen = maps[:MOST]
    settings.progress(f"fitting {len(chosen)} maps")
    options = FitOptions(inputs=FITTED, seed=settings.seed)
    fits = fit_collapses(graph, data, [p.collapse for p in chosen], options, axes) if chosen else {}
    made = [replace(p, fit=_deletion(graph, axes, p.collapse)) for p in deleted]
    made += [replace(p, fit=fits[p.name]) for p in chosen if p.name in fits]
    left = len(maps) - len(chosen)
    return tuple(p for p in made if p.fit is not None), len(proposals) - len(open_), left


def _deletion(graph: Graph, axes: AxisMap, collapse: Collapse) -> SpanFit | None:
    """The identity needs no numbers; None where the ends differ."""
    site = site_of(graph, axes, collapse.span)
    if site is None or not site.same:
        return None
    return SpanFit(collapse, None, None, site.window_of(), 0.0, 0.0, None, 0.0)


def _joins(axes: AxisMap, collapse: Collapse, candidates: Collection[str]) -> bool:
    if collapse.map not in ("identity", "affine"):
        return True
    span = collapse.span
    ends = [axes.values[name][0] for name in (span.entry, span.branch or span.exit)]
    cut = [tuple(axis for axis in end if set(axis.dims()) & set(candidates)) for end in ends]
    return cut[0] == cut[1]


def _effects(graph: Graph, axes: AxisMap, settings: Settings) -> Iterator[tuple[Collapse, Effect | None]]:
    for collapse in find_collapses(graph, axes, find_spans(graph, axes)):
        if collapse.map != "affine":  # a factor per channel in the place of products reproduces too little
            yield collapse, span_effect(graph, axes, collapse)
    linear = ActivationEffects(graph, axes)
    settings.progress("which activations could go")
    for collapse in find_collapses(graph, axes, activation_nodes(graph, axes)):
        if collapse.map == "affine":
            yield collapse, linear.of(collapse)
