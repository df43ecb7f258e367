"""``Problem``: dims with candidate widths, the damage each does, and what the widths cost together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from otgraph.plan.terms import Polynomial, Term, collect

Levels = tuple[int, ...]
"""One candidate per dim, as positions in the dims' ``widths``."""

TOLERANCE = 1e-6
"""The fraction by which a limit may be exceeded, for rounding; far below what can be measured."""


def raised(limit: float, fraction: float) -> float:
    """``limit`` and ``fraction`` of its size more."""
    return limit + fraction * abs(limit)


@dataclass(frozen=True)
class Choice:
    """One dim: its candidate ``widths``, descending, the full one first, and the damage of each."""

    name: str
    widths: tuple[int, ...]
    damages: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.damages):
            raise ValueError(f"{self.name}: needs one damage per candidate width and at least one")
        if any(a <= b for a, b in zip(self.widths, self.widths[1:], strict=False)) or self.widths[-1] < 1:
            raise ValueError(f"{self.name}: candidate widths must be positive and descend")
        if not all(math.isfinite(damage) and damage >= 0 for damage in self.damages):
            raise ValueError(f"{self.name}: a damage must be finite and not negative")


@dataclass(frozen=True)
class Problem:
    """What to allocate. Time is ``constant`` plus the sum of ``terms``, whose coefficients are not negative,
    in any
    unit; damage is the sum over the dims."""

    choices: tuple[Choice, ...]
    terms: Polynomial
    constant: float = 0.0

    def __post_init__(self) -> None:
        names = {choice.name for choice in self.choices}
        if len(names) != len(self.choices):
            raise ValueError("a dim is named twice")
        for term in self.terms:
            if not names.issuperset(term.dims):
                raise ValueError(f"the term {term} names a dim that has no candidates")
            if not (math.isfinite(term.coefficient) and term.coefficient >= 0):
                raise ValueError(f"the term {term} must have a finite coefficient that is not negative")

    def full(self) -> Levels:
        """Every dim at its full width."""
        return (0,) * len(self.choices)

    def least(self) -> Levels:
        """Every dim at its least width."""
        return tuple(len(choice.widths) - 1 for choice in self.choices)

    def widths(self, levels: Sequence[int]) -> dict[str, int]:
        """The widths at ``levels`` by dim."""
        return {c.name: c.widths[level] for c, level in zip(self.choices, levels, strict=True)}

    def time(self, levels: Sequence[int]) -> float:
        """The time at ``levels``."""
        return self.time_at(self.widths(levels))

    def time_at(self, widths: Mapping[str, int]) -> float:
        """The time at ``widths``, candidates or not."""
        return self.constant + sum(term.at(widths) for term in self.terms)

    def damage(self, levels: Sequence[int]) -> float:
        """The damage at ``levels``."""
        return sum(c.damages[level] for c, level in zip(self.choices, levels, strict=True))

    @cached_property
    def merged(self) -> Polynomial:
        """The terms with equal products added up."""
        return collect(self.terms)

    @cached_property
    def varying(self) -> tuple[Term, ...]:
        """The merged terms that name a dim."""
        return tuple(term for term in self.merged if term.dims)

    @cached_property
    def fixed(self) -> float:
        """The part of the time that no width can change."""
        return self.constant + sum(term.coefficient for term in self.merged if not term.dims)

    @cached_property
    def exponents(self) -> npt.NDArray[np.int64]:
        """The power of each dim in each varying term, shape (terms, dims)."""
        powers = np.zeros((len(self.varying), len(self.choices)), np.int64)
        column = {choice.name: i for i, choice in enumerate(self.choices)}
        for row, term in enumerate(self.varying):
            for name in term.dims:
                powers[row, column[name]] += 1
        return powers
