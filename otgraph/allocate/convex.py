"""Problems with an interaction: a good choice and a proven bound, by plain sums that the relaxation solves.

From the optimum of the plain sum, local search with the exact damage goes downhill. Then tangents of the
damage (``tangents``) are minimized over the relaxation, or cut off what it may not do there: each proves a
bound, and a solution, rounded, is where local search starts again. Last the damage is made linear around the
best choice found, as long as that leads to a better one. What is returned is never worse than the optimum of
the plain sum.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

from otgraph.allocate.choice import Choice
from otgraph.allocate.cp_sat import SearchLimits, Solution
from otgraph.allocate.exact import CLOSED, least_damage, least_time
from otgraph.allocate.greedy import meet_budget, meet_limit
from otgraph.allocate.interaction import Effects
from otgraph.allocate.local_search import by_worth, lessen_damage, lessen_time
from otgraph.allocate.problem import TOLERANCE, Caps, Problem, raised
from otgraph.allocate.relaxation import Relaxation, Relaxed
from otgraph.allocate.tangents import Floats, Tangents
from otgraph.allocate.walk import Walk

ROUNDS = 12
"""So many tangents are used at most."""

LEAST_RISE, PATIENCE = 0.002, 3
"""No more of them when so many in a row raised the bound by less than this fraction of the objective."""

AROUND = 4
"""So many times the damage is made linear around the best choice, at most."""

TAKEN = 4
"""So many options are taken for a try where local search has ended; those that are taken are all given up."""

NEAR = 1.05
"""Pairs of moves are only looked at where single ones have come this near to the best choice."""

PLAIN = 0.1
"""The share of the effort that the plain sum may take; what it finds is only where the search starts."""


def least_damage_together(
    problem: Problem,
    effects: Effects,
    caps: Caps,
    start: Choice,
    limits: SearchLimits,
    relaxation: Relaxation,
) -> Solution:
    """Low damage within ``caps``, from ``start``, which keeps them, and a lower bound. ``relaxation``: of the
    problem within ``caps``."""
    plain = replace(limits, effort=PLAIN * limits.effort)
    first = least_damage(problem, problem.prices, caps, start, plain, relaxation)
    search = _LeastDamage(problem, effects, caps, first.choice, relaxation)
    return search.run()


def least_time_together(
    problem: Problem, effects: Effects, limit: float, walk: Walk, limits: SearchLimits, relaxation: Relaxation
) -> Solution:
    """Low time with a damage of at most ``limit``, from where ``walk`` stands, which keeps it, and a lower
    bound. ``relaxation``: of the problem."""
    search = _LeastTime(problem, effects, limit, walk, relaxation)
    return search.run()


def plain_start(problem: Problem, limit: float, start: Choice, limits: SearchLimits) -> Choice:
    """Least time with the plain sum at most ``limit``, from ``start``, where that is."""
    relaxation, cuts = Relaxation(problem), [(problem.prices, limit)]
    relaxation.hold_cuts(cuts)
    plain = replace(limits, effort=PLAIN * limits.effort)
    return least_time(problem, Walk(problem).at_choice(start), cuts, limit, plain, relaxation).choice


class _Search(ABC):
    """The best choice so far, ``best``, where local search ended, and the ``bound`` on the objective."""

    def __init__(self, problem: Problem, effects: Effects, best: Walk, relaxation: Relaxation) -> None:
        self.problem, self.relaxation, self.best = problem, relaxation, best
        self.tangents = Tangents(problem, effects)
        self.bound = -math.inf

    @abstractmethod
    def value(self, walk: Walk) -> float:
        """The objective where ``walk`` stands."""

    @abstractmethod
    def allowed(self, walk: Walk) -> bool:
        """Whether that keeps the limit."""

    @abstractmethod
    def lessen(self, walk: Walk, *, pairs: bool = True) -> None:
        """Local search."""

    @abstractmethod
    def meet(self, walk: Walk) -> None:
        """Go to where the limit is kept."""

    @abstractmethod
    def bound_from_below(self) -> None:
        """Minimize over the relaxation, for the bound and for where to search from."""

    @abstractmethod
    def go_around(self) -> None:
        """Make the damage linear around the best choice until that finds nothing better."""

    def run(self) -> Solution:
        """All of it."""
        self.bound_from_below()
        self.go_around()
        for _ in range(AROUND):
            if self.closed or not self.turn_options():
                break
            self.go_around()
        status: Literal["optimal", "feasible"] = "optimal" if self.closed else "feasible"
        return Solution(self.best.choice(), self.bound, status)

    def turn_options(self) -> bool:
        """Give up an option for good and make up for that elsewhere, and search from there; the same with
        taking some of the others, the cheapest. Whether one of them led to something better."""
        base, before = self.best, self.value(self.best)
        order = by_worth(base)
        others = [option for option in order if not base.chosen[option]]
        for option in [*(option for option in order if base.chosen[option]), *others[:TAKEN]]:
            walk = copy.copy(base)
            walk.move_option(option)
            walk.hold([option])
            self.meet(walk)
            self.lessen(walk, pairs=False)
            walk.hold([])
            if self.allowed(walk) and self.value(walk) <= NEAR * self.value(self.best):
                self.search_from(walk)
        return self.value(self.best) < before

    @property
    def closed(self) -> bool:
        """Whether the bound proves the best choice."""
        found = math.isfinite(self.bound)
        return found and self.value(self.best) - self.bound <= CLOSED * abs(self.bound)

    def rounded(self, relaxed: Relaxed) -> Walk:
        """The choice nearest to a solution of the relaxation that keeps the limit, as far as that is
        reached."""
        walk = self.best.at_choice(self.relaxation.nearest(relaxed))
        self.meet(walk)
        return walk

    def search_from(self, walk: Walk) -> bool:
        """Local search from ``walk``; whether that is better than anything before."""
        self.lessen(walk)
        better = self.allowed(walk) and self.value(walk) < self.value(self.best)
        if better:
            self.best = walk
        return better

    def search_from_best(self, found: list[Relaxed]) -> None:
        """Local search from the best of the last solutions."""
        walks = [self.rounded(relaxed) for relaxed in found[-PATIENCE:]]
        walks = [walk for walk in walks if self.allowed(walk)]
        if walks:
            self.search_from(min(walks, key=self.value))


class _LeastDamage(_Search):
    """Low damage within ``caps``."""

    def __init__(
        self, problem: Problem, effects: Effects, caps: Caps, start: Choice, relaxation: Relaxation
    ) -> None:
        best = Walk(problem, effects=effects).at_choice(start)
        super().__init__(problem, effects, best, relaxation)
        self.caps, self.bound = caps, 0.0
        self.lessen(best)

    def value(self, walk: Walk) -> float:
        return walk.damage

    def allowed(self, walk: Walk) -> bool:
        return self.problem.within(walk.choice(), self.caps)

    def lessen(self, walk: Walk, *, pairs: bool = True) -> None:
        lessen_damage(walk, self.caps, pairs=pairs)

    def meet(self, walk: Walk) -> None:
        meet_budget(walk, self.caps)

    def bound_from_below(self) -> None:
        """Minimize tangents, halfway between the best one so far and the lowest mixture of solutions."""
        points = [self.tangents.point_at(self.best)]
        center = at = 0.0 * points[0].sum
        best, idle = -math.inf, 0
        found: list[Relaxed] = []
        while len(found) < ROUNDS and idle < PATIENCE and not self.closed:
            relaxed = self.relaxation.minimize(self.relaxation.damage(self.tangents.at(at)))
            if relaxed is None:
                break
            found.append(relaxed)
            # below 0 a tangent only says that there are too few points yet to know where to put it
            idle = 0 if relaxed.bound > best + LEAST_RISE * self.best.damage or best <= 0 else idle + 1
            if relaxed.bound > best:
                best, center = relaxed.bound, at
            self.bound = max(self.bound, best)
            points.append(self.tangents.point_of(self.relaxation, relaxed))
            at = (center + self.tangents.lowest(points).sum) / 2
        self.search_from_best(found)

    def go_around(self) -> None:
        for _ in range(AROUND):
            prices = self.tangents.around(self.best)
            relaxed = self.relaxation.minimize(self.relaxation.damage(prices))
            if relaxed is None or self.closed or not self.search_from(self.rounded(relaxed)):
                break


class _LeastTime(_Search):
    """Low time with a damage of at most ``limit``."""

    def __init__(
        self, problem: Problem, effects: Effects, limit: float, best: Walk, relaxation: Relaxation
    ) -> None:
        super().__init__(problem, effects, best, relaxation)
        self.limit = limit
        self.lessen(best)

    def value(self, walk: Walk) -> float:
        return walk.time

    def allowed(self, walk: Walk) -> bool:
        return walk.damage <= raised(self.limit, TOLERANCE)

    def lessen(self, walk: Walk, *, pairs: bool = True) -> None:
        lessen_time(walk, raised(self.limit, TOLERANCE / 2), pairs=pairs)

    def meet(self, walk: Walk) -> None:
        meet_limit(walk, self.limit)

    def bound_from_below(self) -> None:
        """Cut off solutions that do more than the limit, each where the way to it from the best choice leaves
        what is allowed."""
        inner, idle = self.tangents.point_at(self.best), 0
        found: list[Relaxed] = []
        self._cut(0.0 * inner.sum)
        self._cut(inner.sum)
        while len(found) < ROUNDS and idle < PATIENCE and not self.closed:
            relaxed = self.relaxation.minimize(self.relaxation.time)
            if relaxed is None:
                break
            found.append(relaxed)
            idle = 0 if relaxed.bound > self.bound + LEAST_RISE * abs(self.best.time) else idle + 1
            self.bound = max(self.bound, relaxed.bound)
            outer = self.tangents.point_of(self.relaxation, relaxed)
            if self.tangents.damage(outer) <= self.limit:
                break
            self._cut(self.tangents.border(inner, outer, self.limit).sum)
        self.search_from_best(found)

    def _cut(self, point: Floats) -> None:
        self.relaxation.hold_cuts([(self.tangents.at(point), self.limit)])

    def go_around(self) -> None:
        for _ in range(AROUND):
            prices = self.tangents.around(self.best)
            here = self.problem.priced(self.best.choice(), prices)
            row = self.relaxation.hold(self.relaxation.damage(prices), here + self.limit - self.best.damage)
            relaxed = self.relaxation.minimize(self.relaxation.time)
            self.relaxation.release(row)
            if relaxed is None or self.closed or not self.search_from(self.rounded(relaxed)):
                break
