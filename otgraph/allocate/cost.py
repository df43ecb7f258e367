"""Costs as polynomials in the widths of dims, so that a solver sees how the widths of one node interact.

The idea of pricing a layer by its input and output widths *together* is that of HALP (Shen et al., 2022) and
MDP (Sun et al., 2024); here it holds for any operator, since the axes say which dims a node's size is made
of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """``coefficient`` × the product of the widths of ``dims``; a dim that is named twice counts squared."""

    coefficient: float
    dims: tuple[str, ...] = ()

    def at(self, widths: Mapping[str, int]) -> float:
        """The value of the term at ``widths``, which must hold every dim the term names."""
        return self.coefficient * math.prod(widths[name] for name in self.dims)


Polynomial = tuple[Term, ...]


@dataclass(frozen=True)
class NodeCost:
    """What one node costs (multiply–accumulates, or time once scaled) as a function of the widths."""

    node: str
    terms: Polynomial

    def at(self, widths: Mapping[str, int]) -> float:
        """The cost at ``widths``."""
        return evaluate(self.terms, widths)


@dataclass(frozen=True)
class TimeTable:
    """A measured cost over the candidate widths of one or two ``dims``; no smooth form says what an engine
    does with narrow layers.

    ``values`` has one entry per combination of widths, in the order of ``dims``; other widths are not known.
    A node that reads the same dim twice has it once in ``dims``.
    """

    dims: tuple[str, ...]
    values: Mapping[tuple[int, ...], float]

    def __post_init__(self) -> None:
        if not 1 <= len(self.dims) <= 2 or len(set(self.dims)) != len(self.dims):
            raise ValueError(f"a table over {self.dims}: needs one dim, or two that differ")
        if any(len(widths) != len(self.dims) for widths in self.values):
            raise ValueError(f"a table over {self.dims}: needs one width per dim in each of its keys")
        for widths, value in self.values.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"a table over {self.dims}: {value} at {widths} is not a time")

    def at(self, widths: Mapping[str, int]) -> float:
        """The cost at ``widths``, which must be among those tabulated."""
        return self.values[tuple(widths[name] for name in self.dims)]


@dataclass(frozen=True)
class TimeTerm:
    """What one node takes: a table, a polynomial, or the sum of both; nothing where it has neither."""

    node: str
    terms: Polynomial = ()
    table: TimeTable | None = None

    @property
    def dims(self) -> frozenset[str]:
        """The dims whose widths the time depends on."""
        read = {name for term in self.terms for name in term.dims}
        return frozenset(read.union(() if self.table is None else self.table.dims))

    def at(self, widths: Mapping[str, int]) -> float:
        """The time at ``widths``."""
        return evaluate(self.terms, widths) + (0.0 if self.table is None else self.table.at(widths))


def evaluate(terms: Iterable[Term], widths: Mapping[str, int]) -> float:
    """The sum of ``terms`` at ``widths``."""
    return sum((term.at(widths) for term in terms), 0.0)


def collect(terms: Iterable[Term]) -> Polynomial:
    """``terms`` with equal products of dims added up, each product in sorted order, zeros left out."""
    sums: dict[tuple[str, ...], float] = {}
    for term in terms:
        key = tuple(sorted(term.dims))
        sums[key] = sums.get(key, 0.0) + term.coefficient
    return tuple(Term(value, key) for key, value in sums.items() if value != 0)


def multiply(factors: Iterable[Iterable[Term]]) -> Polynomial:
    """The product of polynomials."""
    result: Polynomial = (Term(1.0),)
    for factor in factors:
        result = collect(
            Term(a.coefficient * b.coefficient, a.dims + b.dims) for b in tuple(factor) for a in result
        )
    return result
