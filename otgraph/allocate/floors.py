"""``Floors``: the least that each part of a problem does by given prices, and what that rules out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.prices import Prices
from otgraph.allocate.problem import Problem

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kept:
    """The candidates that a search looks at: levels by dim, options by position, and where not all pairs of
    levels are looked at, which, by the scope and table that they cost time in."""

    levels: tuple[frozenset[int], ...]
    options: frozenset[int]
    pairs: Mapping[tuple[int, int], Booleans] = field(default_factory=dict[tuple[int, int], Booleans])

    @staticmethod
    def everything(problem: Problem) -> Kept:
        """All there are."""
        levels = tuple(frozenset(range(len(dim.widths))) for dim in problem.dims)
        return Kept(levels, frozenset(range(len(problem.options))))

    def both(self, other: Kept) -> Kept:
        """What both look at, of pairs what one of them says; a dim of which nothing is left keeps what it
        had, ruled out by its price."""
        levels = tuple(a & b or a for a, b in zip(self.levels, other.levels, strict=True))
        return Kept(levels, self.options & other.options, {**self.pairs, **other.pairs})


class Floors:
    """The least that each dim and option does by ``prices``, whatever is chosen; what a choice does is told
    above them, so that it does not drown in them.

    ``dims``: per dim; one that an option may absorb need not do anything. ``options``: per option, not above
    0. ``total``: of all, with the constant; ``ceiling``: no choice does more.
    """

    def __init__(self, problem: Problem, prices: Prices) -> None:
        self.problem, self.prices = problem, prices
        lowest = zip(problem.dims, map(min, prices.dims), strict=True)
        self.dims = tuple(min(low, 0.0) if problem.absorbers[dim.name] else low for dim, low in lowest)
        self.options = tuple(min(price, 0.0) for price in prices.options)
        self.total = prices.constant + sum(self.dims) + sum(self.options)
        highest = sum(max(each) for each in prices.dims) + sum(max(price, 0.0) for price in prices.options)
        self.ceiling = prices.constant + highest

    def above(self, choice: Choice) -> float:
        """What ``choice`` does above the floors."""
        problem = self.problem
        chosen = {problem.position[name] for name in choice.options}
        columns = zip(problem.dims, problem.levels(choice), self.prices.dims, self.dims, strict=True)
        over = sum(
            (0.0 if chosen & problem.absorbers[dim.name] else alone[level]) - floor
            for dim, level, alone, floor in columns
        )
        pairs = enumerate(zip(self.prices.options, self.options, strict=True))
        return over + sum((price if at in chosen else 0.0) - floor for at, (price, floor) in pairs)

    def kept(self, start: Choice, room: float) -> Kept:
        """The candidates that do not do more than ``room`` above their floor, and those of ``start``; a dim
        that is absorbed there has at least its cheapest."""
        problem = self.problem
        chosen = frozenset(problem.position[name] for name in start.options)
        levels: list[frozenset[int]] = []
        columns = zip(problem.dims, problem.levels(start), self.prices.dims, self.dims, strict=True)
        for dim, level, alone, floor in columns:
            always = alone.index(min(alone)) if chosen & problem.absorbers[dim.name] else level
            levels.append(frozenset({always, *(i for i, price in enumerate(alone) if price - floor <= room)}))
        pairs = enumerate(zip(self.prices.options, self.options, strict=True))
        return Kept(tuple(levels), chosen | {at for at, (price, floor) in pairs if price - floor <= room})
