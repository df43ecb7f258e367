"""Times as linear expressions over Booleans, for OR-tools CP-SAT (Perron and Furnon, Google).

A table over two dims takes the transportation polytope, the local polytope of graphical models (Werner,
2007), whose relaxation is so tight that the search closes; a polynomial is split dim by dim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from otgraph.allocate.cost import Term
from otgraph.allocate.scope import Candidates, Scope, Table

Booleans = npt.NDArray[np.bool_]

Picks = Mapping[int, cp_model.IntVar]
"""A Boolean per level: whether the dim stands there."""


@dataclass(frozen=True)
class Linear:
    """A linear expression with its least and largest value where its scope is active (0 elsewhere), and its
    value at the start."""

    expression: cp_model.LinearExpr
    low: int
    high: int
    start: int


@dataclass(frozen=True)
class TimeForm:
    """Writes the time of one scope in ``unit``, rounded down. ``picks`` are of the dims as the scope sees
    them: all 0 while it is not active. ``starts``: the dims' levels at the start, None when it is not active
    there."""

    model: cp_model.CpModel
    widths: Candidates
    picks: Mapping[str, Picks]
    starts: Mapping[str, int] | None
    unit: float

    def time(self, scope: Scope, masks: Sequence[Booleans | None]) -> cp_model.LinearExpr:
        """The part of the time that depends on dims. ``masks``: by table, the pairs of levels that are looked
        at (the others cannot be), None for all."""
        parts = [self._sum(scope.terms).expression]
        parts += [self._table(table, mask) for table, mask in zip(scope.tables, masks, strict=True)]
        return total(parts)

    def _sum(self, terms: Iterable[Term]) -> Linear:
        """A polynomial as a linear expression: tables for single dims, and dim by dim (Horner) for
        products."""
        terms = tuple(terms)
        parts = [self._power(term) for term in terms if len(set(term.dims)) == 1]
        rest = [term for term in terms if len(set(term.dims)) > 1]
        while rest:
            hub, power = _most_shared(rest)
            parts.append(self._product(hub, power, [t for t in rest if t.dims.count(hub) == power]))
            rest = [term for term in rest if term.dims.count(hub) != power]
        return _add(parts)

    def _power(self, term: Term) -> Linear:
        """A term in one dim is a table over the dim's candidates."""
        name, power = term.dims[0], len(term.dims)
        widths = self.widths[name]
        table = {
            level: down(term.coefficient * widths[level] ** power, self.unit) for level in self.picks[name]
        }
        return Linear(
            total(table[level] * pick for level, pick in self.picks[name].items()),
            min(table.values()),
            max(table.values()),
            0 if self.starts is None else table[self.starts[name]],
        )

    def _product(self, hub: str, power: int, terms: list[Term]) -> Linear:
        """Terms that share a dim, as a layer or a concatenation gives: width(hub)^power × a polynomial.

        The polynomial's value is split over the hub's candidates (one part is the value, the others are
        zero), which makes the product linear with a tighter relaxation than a product constraint per term
        has. Products of two dims only come here when they are too many to be tables (``scope``).
        """
        picks, widths = self.picks[hub], self.widths[hub]
        divisor = math.gcd(*(widths[level] for level in picks)) ** power
        scale = {level: widths[level] ** power // divisor for level in picks}
        value = self._sum(_without(term, hub, divisor) for term in terms)
        parts: dict[int, cp_model.IntVar] = {}
        for level, pick in picks.items():
            parts[level] = self.model.new_int_var(0, value.high, f"{hub}={widths[level]}*")
            self.model.add(parts[level] <= value.high * pick)
            self.model.add(parts[level] >= value.low * pick)
            self.model.add_hint(parts[level], value.start if self._starts_at(hub, level) else 0)
        self.model.add(total(parts.values()) == value.expression)
        return Linear(
            total(scale[level] * part for level, part in parts.items()),
            min(scale.values()) * value.low,
            max(scale.values()) * value.high,
            0 if self.starts is None else scale[self.starts[hub]] * value.start,
        )

    def _table(self, table: Table, mask: Booleans | None) -> cp_model.LinearExpr:
        """A table over one dim costs its picks; over two, a Boolean per pair of levels, whose rows and
        columns add up to the dims' picks."""
        allowed = [list(self.picks[name]) for name in table.dims]
        values = table.values[np.ix_(*allowed)]
        for axis, name in enumerate(table.dims):
            others = [size for at, size in enumerate(values.shape) if at != axis]
            if all(size == 1 for size in others):
                flat = values.reshape(-1)
                pairs = zip(flat, self.picks[name].values(), strict=True)
                return total(down(float(value), self.unit) * pick for value, pick in pairs)
        units = np.floor(values / self.unit).astype(np.int64).tolist()
        able = np.ones_like(table.values, np.bool_) if mask is None else mask
        return self._pairs(table.dims, allowed, units, able)

    def _pairs(
        self, dims: tuple[str, ...], levels: list[list[int]], units: list[list[int]], able: Booleans
    ) -> cp_model.LinearExpr:
        (first, second), (rows, columns) = dims, levels
        pairs: list[cp_model.IntVar] = []
        costs: list[int] = []
        ends: dict[int, list[cp_model.IntVar]] = {column: [] for column in columns}
        for row, line in zip(rows, units, strict=True):
            both: list[cp_model.IntVar] = []
            for column, cost in zip(columns, line, strict=True):
                if able[row, column]:
                    pair = self.model.new_bool_var("")
                    here = self._starts_at(first, row) and self._starts_at(second, column)
                    self.model.add_hint(pair, int(here))
                    both.append(pair)
                    ends[column].append(pair)
                    costs.append(cost)
            pairs += both
            self.model.add(total(both) == self.picks[first][row])
        for column, both in ends.items():
            self.model.add(total(both) == self.picks[second][column])
        return weighted(pairs, costs)

    def _starts_at(self, name: str, level: int) -> bool:
        return self.starts is not None and self.starts[name] == level


def down(value: float, unit: float) -> int:
    """``value`` in whole units, rounded down."""
    return math.floor(value / unit)


def total(parts: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    """The sum of linear expressions."""
    expression: Any = cp_model.LinearExpr  # its stubs leave the arguments of sum without a type
    return cast(cp_model.LinearExpr, expression.sum(list(parts)))


def weighted(parts: Sequence[cp_model.IntVar], weights: Sequence[int]) -> cp_model.LinearExpr:
    """The sum of ``weights`` times ``parts``."""
    expression: Any = cp_model.LinearExpr
    return cast(cp_model.LinearExpr, expression.weighted_sum(list(parts), list(weights)))


def _add(parts: list[Linear]) -> Linear:
    return Linear(
        total(part.expression for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
        sum(part.start for part in parts),
    )


def _without(term: Term, hub: str, factor: float) -> Term:
    return Term(term.coefficient * factor, tuple(name for name in term.dims if name != hub))


def _most_shared(terms: list[Term]) -> tuple[str, int]:
    """The dim, with its power, that most of ``terms`` have in common."""
    counts = Counter((name, term.dims.count(name)) for term in terms for name in set(term.dims))
    return max(counts, key=lambda key: (counts[key], key))
