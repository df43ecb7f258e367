"""Problems whose damage is a plain sum, solved to proven optimality.

A start by steepest ratio and local search; the relaxation, whose bound rules out most candidates against it;
and an integer program for what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from otgraph.allocate.choice import Choice
from otgraph.allocate.cp_sat import SearchLimits, Solution, solve_damage, solve_time
from otgraph.allocate.greedy import meet_budget, meet_limit
from otgraph.allocate.local_search import lessen_damage, lessen_time
from otgraph.allocate.prices import Cut, Prices
from otgraph.allocate.problem import TOLERANCE, Caps, Problem, raised
from otgraph.allocate.relaxation import Relaxation
from otgraph.allocate.walk import Walk

CLOSED = 1e-6
"""A solution is taken for optimal when it is within this fraction of the bound."""


def least_damage(
    problem: Problem, prices: Prices, caps: Caps, start: Choice, limits: SearchLimits, relaxation: Relaxation
) -> Solution:
    """Least damage by ``prices`` within ``caps``, never worse than ``start``. ``relaxation``: of the problem
    within ``caps``."""
    walk = Walk(problem, prices).at_choice(start)
    lessen_damage(walk, caps)
    start = walk.choice()
    relaxed = relaxation.minimize(relaxation.damage(prices))
    if relaxed is None:
        return solve_damage(problem, prices, caps, start, limits)
    walk = walk.at_choice(relaxation.nearest(relaxed))
    meet_budget(walk, caps)
    lessen_damage(walk, caps)
    near = walk.choice()
    if problem.within(near, caps) and problem.priced(near, prices) < problem.priced(start, prices):
        start = near
    slack = problem.priced(start, prices) - relaxed.bound
    if slack <= CLOSED * abs(relaxed.bound):
        return Solution(start, relaxed.bound, "optimal")
    found = solve_damage(problem, prices, caps, start, limits, relaxation.kept(relaxed, slack, start))
    return replace(found, bound=max(relaxed.bound, found.bound))


def least_time(
    problem: Problem,
    walk: Walk,
    cuts: Sequence[Cut],
    limit: float,
    limits: SearchLimits,
    relaxation: Relaxation,
    layers: int | None = None,
) -> Solution:
    """Least time with the damage by each of ``cuts`` within its limit and at most ``layers`` on the longest
    path, never worse than where ``walk`` stands, whose own damage keeps ``limit`` and with that all cuts.
    ``relaxation``: of the problem within the cuts."""
    lessen_time(walk, limit, layers)
    start = walk.choice()
    relaxed = relaxation.minimize(relaxation.time)
    if relaxed is None:
        return solve_time(problem, cuts, start, limits, layers=layers)
    near = walk.at_choice(relaxation.nearest(relaxed))
    meet_limit(near, limit, layers)
    lessen_time(near, limit, layers)
    short = problem.within(near.choice(), Caps(layers=layers))
    if short and near.damage <= raised(limit, TOLERANCE) and near.time < walk.time:
        start = near.choice()
    slack = problem.time(start) - relaxed.bound
    if slack <= CLOSED * abs(relaxed.bound):
        return Solution(start, relaxed.bound, "optimal")
    kept = relaxation.kept(relaxed, slack, start)
    found = solve_time(problem, cuts, start, limits, kept, layers)
    return replace(found, bound=max(relaxed.bound, found.bound))
