"""Finding spans: which regions of a program one map could replace, by the program's structure alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from otgraph.graph.affine import argument, read_affine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.depth import is_product
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.pointwise import is_affine, is_pointwise
from otgraph.graph.regions import Flow
from otgraph.graph.span import Span
from otgraph.graph.span_site import channel_axis, shape_of, site_of

RUN = 3
"""At most so many minimal spans make one span."""


@dataclass(frozen=True)
class _Link:
    """Two neighbors of a chain: the nodes between them, and what they do."""

    nodes: tuple[fx.Node, ...]
    products: int
    affine: bool

    @property
    def forks(self) -> bool:
        return len(self.nodes) > 1


@dataclass(frozen=True)
class _Atom:
    """A stretch of a chain with one link that multiplies, from position ``start``: to ``near`` with the batch
    norm and the factors and terms that follow, to ``bare`` with all affine nodes (reshapes, poolings), to
    ``stop`` with all that comes before the next product. ``lead``: where it may also begin, with what comes
    before the first product of a chain."""

    start: int
    near: int
    bare: int
    stop: int
    forks: bool
    lead: int


def find_spans(graph: Graph, axes: AxisMap, run: int = RUN) -> tuple[Span, ...]:
    """Every span of ``graph``, in program order of their entries, then of their exits.

    A minimal span is a product of a chain of regions with what follows it until the next product (a
    convolution with its batch norm and activation; an addition with its branches); or a group of up to
    ``run`` of them that ends where a product is read linearly (an inverted residual without its addition).
    Spans are minimal ones and runs of up to ``run`` of either sort, each also without the activation at its
    end. Both ends hold channels on the same axis, and their other axes agree up to a stride. A region of
    which anything but the exit is read outside is no span. Single activations are ``activation_nodes``.
    """
    flow = Flow.of(graph)
    found: dict[tuple[str, str], Span] = {}
    for chain in flow.chains():
        links = [_link(graph, flow, a, b) for a, b in pairwise(chain)]
        for start, stop in _stretches(_atoms(links), run):
            nodes = tuple(node for link in links[start:stop] for node in link.nodes)
            span = _span(axes, chain[start], chain[stop], nodes)
            known = (span.entry, span.exit) in found
            if not known and not flow.escapes(nodes) and site_of(graph, axes, span) is not None:
                found[span.entry, span.exit] = span
    branches = {(span.entry, span.branch) for span in found.values() if span.branch is not None}
    place = {node.name: index for index, node in enumerate(flow.order)}
    spans = (span for ends, span in found.items() if ends not in branches)
    return tuple(sorted(spans, key=lambda span: (place[span.entry], place[span.exit])))


def activation_nodes(graph: Graph, axes: AxisMap) -> tuple[Span, ...]:
    """Every region that maps each element by itself and is not affine, in program order.

    Most are one node; a function that is written with several (SiLU as a product with a sigmoid) is one span,
    and what lies within it is none. Both ends hold channels on the same axis.
    """
    flow = Flow.of(graph)
    found: list[Span] = []
    for chain in flow.chains():
        for entry, exit_ in pairwise(chain):
            link = _link(graph, flow, entry, exit_)
            if link.affine or not all(map(is_pointwise, link.nodes)) or flow.escapes(link.nodes):
                continue
            axis = channel_axis(axes, entry.name)
            if axis is not None and axis == channel_axis(axes, exit_.name):
                found.append(Span(entry.name, exit_.name, tuple(node.name for node in link.nodes)))
    place = {node.name: index for index, node in enumerate(flow.order)}
    inner = {name for span in found for name in span.nodes[:-1]}
    return tuple(sorted((s for s in found if s.exit not in inner), key=lambda span: place[span.exit]))


def _link(graph: Graph, flow: Flow, entry: fx.Node, exit_: fx.Node) -> _Link:
    nodes = (exit_,) if flow.preds[exit_] == (entry,) else flow.between(entry, exit_)
    data = frozenset((entry, *nodes))
    products = sum(map(is_product, nodes))
    linear = all(is_affine(n, data) or read_affine(graph, n) is not None for n in nodes)
    return _Link(nodes, products, linear)


def _atoms(links: list[_Link]) -> list[_Atom]:
    """The atoms of a chain: one per link that multiplies."""
    cuts = [index for index, link in enumerate(links) if link.products]
    atoms: list[_Atom] = []
    for cut, stop in zip(cuts, [*cuts, len(links)][1:], strict=True):
        near = cut + 1
        while near < stop and links[near].affine and all(map(_keeps_place, links[near].nodes)):
            near += 1
        bare = near
        while bare < stop and links[bare].affine:
            bare += 1
        atoms.append(_Atom(cut, near, bare, stop, links[cut].forks, cut if atoms else 0))
    return atoms


def _stretches(atoms: list[_Atom], run: int) -> Iterator[tuple[int, int]]:
    """Pairs of positions: runs of atoms within a group, then runs of groups."""
    groups = _groups(atoms)
    for group in groups:
        yield from _runs([[atom] for atom in group], run)
    units: list[list[_Atom]] = []
    for group in groups:
        units += [group] if len(group) <= run else [[atom] for atom in group]
    yield from _runs(units, run)


def _keeps_place(node: fx.Node) -> bool:
    return is_pointwise(node) or op_name(node) in ("aten.batch_norm", "onnx.BatchNormalization")


def _runs(units: list[list[_Atom]], run: int) -> Iterator[tuple[int, int]]:
    for first in range(len(units)):
        for last in range(first, min(first + run, len(units))):
            start, stop = units[first][0], units[last][-1]
            for begin in {start.start: None, start.lead: None}:
                for end in {stop.near: None, stop.bare: None, stop.stop: None}:
                    yield begin, end


def _groups(atoms: list[_Atom]) -> list[list[_Atom]]:
    """Atoms that belong together: none between them forks or is read linearly by the next product."""
    groups: list[list[_Atom]] = []
    for index, atom in enumerate(atoms):
        last = atoms[index - 1]
        if not groups or atom.forks or last.forks or last.bare == last.stop:
            groups.append([])
        groups[-1].append(atom)
    return groups


def _span(axes: AxisMap, entry: fx.Node, exit_: fx.Node, nodes: tuple[fx.Node, ...]) -> Span:
    branch = _branch(entry, exit_, nodes)
    if branch is not None and shape_of(axes, branch) != shape_of(axes, entry.name):
        branch = None  # it is repeated along some axis: no update of the same shape
    return Span(entry.name, exit_.name, tuple(node.name for node in nodes), branch)


def _branch(entry: fx.Node, exit_: fx.Node, nodes: tuple[fx.Node, ...]) -> str | None:
    """The value that ``exit_`` adds to ``entry``, where that is all it does."""
    if op_name(exit_) not in ("aten.add", "onnx.Add") or argument(exit_, 2, "alpha", 1) != 1:
        return None
    first, second = exit_.args[0], exit_.args[1]
    if second is entry:
        first, second = second, first
    if first is not entry or not isinstance(second, fx.Node) or second is entry or second not in nodes:
        return None
    return second.name
