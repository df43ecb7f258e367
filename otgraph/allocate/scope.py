"""``Scope``: the times that come and go together, added up to few terms and tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.allocate.cost import Polynomial, Term, TimeTable, TimeTerm, collect
from otgraph.allocate.option import Option

Floats = npt.NDArray[np.float64]
Candidates = Mapping[str, tuple[int, ...]]
"""The candidate widths by dim."""

MOST_ENTRIES = 60_000
"""How many values the products of two dims may be tabulated to. Tables relax so much tighter that a chain of
60 dims and DenseNet-121, open after a minute as products, close in seconds; more of them are slow again."""


@dataclass(frozen=True)
class Table:
    """Times by the levels of one or two dims: ``values`` has one axis per dim."""

    dims: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Scope:
    """Times that count as long as none of the options ``removers`` is chosen, and, where there is an
    ``adder``, if that is; options are named by position. Each of ``terms`` names a dim."""

    removers: frozenset[int]
    adder: int | None
    constant: float
    terms: Polynomial
    tables: tuple[Table, ...]

    def active(self, chosen: frozenset[int]) -> bool:
        """Whether the times count when the options ``chosen`` are."""
        return not self.removers & chosen and (self.adder is None or self.adder in chosen)

    @property
    def dims(self) -> tuple[str, ...]:
        """The dims that the times depend on, sorted."""
        read = {name for term in self.terms for name in term.dims}
        return tuple(sorted(read.union(*(table.dims for table in self.tables))))

    def highest(self, widths: Candidates) -> float:
        """At least the largest time, at any of the candidate ``widths``."""
        full = {name: candidates[0] for name, candidates in widths.items()}
        tables = sum(float(table.values.max()) for table in self.tables)
        return self.constant + sum(term.at(full) for term in self.terms) + tables


def scopes_of(
    nodes: Sequence[TimeTerm], options: Sequence[Option], base: TimeTerm, widths: Candidates
) -> tuple[Scope, ...]:
    """The scopes of a problem: first that of ``base`` and of the nodes that stay whatever is chosen, then one
    per set of options that remove the same nodes, then one per option for the nodes that it adds."""
    removers = {node.node: frozenset[int]() for node in nodes}
    for at, option in enumerate(options):
        for name in option.removes:
            removers[name] |= {at}
    members: dict[frozenset[int], list[TimeTerm]] = {frozenset(): [base]}
    for node in nodes:
        members.setdefault(removers[node.node], []).append(node)
    groups = [*members.values(), *(option.adds for option in options)]
    entries = sum(math.prod(len(widths[name]) for name in pair) for group in groups for pair in _pairs(group))
    tabled = 2 if entries <= MOST_ENTRIES else 0
    scopes = [_scope(key, None, group, widths, tabled) for key, group in members.items()]
    scopes += [_scope(frozenset(), at, option.adds, widths, tabled) for at, option in enumerate(options)]
    used = (scope for scope in scopes[1:] if scope.constant or scope.terms or scope.tables)
    return (scopes[0], *used)


def _pairs(nodes: Iterable[TimeTerm]) -> set[frozenset[str]]:
    """The pairs of dims whose product is a term."""
    products = {frozenset(term.dims) for node in nodes for term in node.terms}
    return {dims for dims in products if len(dims) == 2}


def _scope(
    removers: frozenset[int], adder: int | None, nodes: Sequence[TimeTerm], widths: Candidates, tabled: int
) -> Scope:
    """The sum of ``nodes``; terms that name ``tabled`` different dims, or those of a table, become tables."""
    sums: dict[tuple[str, ...], Floats] = {}
    for node in nodes:
        if node.table is not None:
            dims = tuple(sorted(node.table.dims))
            values = _dense(node.table, widths)
            sums[dims] = sums.get(dims, 0.0) + (values if dims == node.table.dims else values.T)
    rest: list[Term] = []
    for term in collect(term for node in nodes for term in node.terms):
        key = tuple(sorted(set(term.dims)))
        if key and (key in sums or len(key) == tabled):
            sums[key] = sums.get(key, 0.0) + _tabulated(term, key, widths)
        else:
            rest.append(term)
    return Scope(
        removers=removers,
        adder=adder,
        constant=sum((term.coefficient for term in rest if not term.dims), 0.0),
        terms=tuple(term for term in rest if term.dims),
        tables=tuple(Table(dims, values) for dims, values in sums.items()),
    )


def _dense(table: TimeTable, widths: Candidates) -> Floats:
    axes = [widths[name] for name in table.dims]
    values = [table.values[key] for key in itertools.product(*axes)]
    return np.array(values, np.float64).reshape([len(axis) for axis in axes])


def _tabulated(term: Term, dims: tuple[str, ...], widths: Candidates) -> Floats:
    powers = [np.array(widths[name], np.float64) ** term.dims.count(name) for name in dims]
    return term.coefficient * (powers[0] if len(powers) == 1 else np.outer(*powers))
