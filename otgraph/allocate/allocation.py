"""The allocation: widths and options, so that the damage is least within a time, or the time within a damage.

Times are polynomials in the widths or tables (``cost``), damages a number per candidate (``problem``), which
add up or act on each other (``interaction``). Sums are minimized to proven optimality (``exact``), the others
to a proven gap (``convex``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from otgraph.allocate.choice import Choice
from otgraph.allocate.convex import least_damage_together, least_time_together, plain_start
from otgraph.allocate.cp_sat import SearchLimits, Solution, Status, solve_layers
from otgraph.allocate.exact import least_damage, least_time
from otgraph.allocate.greedy import least_damage_start, least_time_start, meet_budget, meet_limit
from otgraph.allocate.interaction import Effects
from otgraph.allocate.problem import TOLERANCE, Caps, DimOptions, Problem, raised
from otgraph.allocate.relaxation import Relaxation
from otgraph.allocate.walk import Walk
from otgraph.errors import UsageError

DEFAULT_LIMITS = SearchLimits()


@dataclass(frozen=True)
class Allocation:
    """The choice, the time and damage it is predicted to have, and how good that is.

    ``bound`` is a proven lower bound on the objective (damage or time); ``status`` says whether the search
    reached it (*optimal*) or ran into its limit (*feasible*). The choice names every dim, those that an
    option absorbs at full width, and its options in the problem's order.
    """

    choice: Choice
    time: float
    damage: float
    objective: float
    bound: float
    status: Status

    @property
    def gap(self) -> float:
        """How far the objective may be from the best one, as a fraction of it."""
        return 0.0 if self.objective <= self.bound else (self.objective - self.bound) / self.objective


def minimize_damage(
    problem: Problem,
    budget: float = math.inf,
    limits: SearchLimits = DEFAULT_LIMITS,
    *,
    layers: int | None = None,
) -> Allocation:
    """The widths and options of least damage whose time is at most ``budget`` (within a millionth of it) and
    that leave at most ``layers`` on the longest path. Where only these are limited, dims keep the width that
    does least alone: widths shorten no path.

    Without an interaction this is exact up to ``limits``; with one it starts from that, is never worse, and
    has a bound.

    Raises:
        UsageError: nothing meets ``budget`` or ``layers``; the message has the smallest that can be reached.
    """
    caps = Caps(budget, layers)
    narrowed = _at_rest(problem) if budget == math.inf and layers is not None else problem
    start = _start(narrowed, caps, limits)
    relaxation = Relaxation(narrowed, caps)
    if narrowed.effects is None:
        solution = least_damage(narrowed, narrowed.prices, caps, start, limits, relaxation)
    else:
        solution = least_damage_together(narrowed, narrowed.effects, caps, start, limits, relaxation)
    return _allocation(problem, solution, problem.damage(solution.choice))


def _start(problem: Problem, caps: Caps, limits: SearchLimits) -> Choice:
    """A choice within ``caps``."""
    if caps.layers is None:
        start = least_damage_start(problem, caps.time)
    else:
        rest = _at_rest(problem)
        start = solve_layers(rest, rest.full(), limits).choice
        least = problem.longest(start)
        if least > caps.layers:
            raise UsageError(
                f"layers {caps.layers}: out of reach; the smallest with these spans is {least};"
                " ask for that or more"
            )
        walk = Walk(problem).at_choice(start)
        meet_budget(walk, caps)
        start = walk.choice()
    if not problem.within(start, caps):
        start = _fastest(problem, start, caps.layers, limits).choice
    if not problem.within(start, caps):
        raise UsageError(_out_of_reach(problem, problem.time(start), caps.time))
    return start


def _at_rest(problem: Problem) -> Problem:
    """``problem`` with every dim at the width that does least alone."""
    dims: list[DimOptions] = []
    for dim in problem.dims:
        at = dim.damages.index(min(dim.damages))
        dims.append(DimOptions(dim.name, dim.widths[at : at + 1], dim.damages[at : at + 1]))
    return replace(problem, dims=tuple(dims))


def minimize_time(problem: Problem, limit: float, limits: SearchLimits = DEFAULT_LIMITS) -> Allocation:
    """The widths and options of least time whose damage is at most ``limit`` (within a millionth of it).

    An infinite ``limit`` gives the least time that can be reached at all.

    Raises:
        UsageError: even the best choice does more damage than ``limit``.
    """
    if limit == math.inf:
        solution = _fastest(problem, least_time_start(problem, math.inf), None, limits)
        return _allocation(problem, solution, problem.time(solution.choice))
    start = least_time_start(problem, limit)
    if problem.effects is not None:
        solution = _least_time_together(problem, problem.effects, limit, start, limits)
        return _allocation(problem, solution, problem.time(solution.choice))
    if problem.damage(start) > raised(limit, TOLERANCE):
        relaxation = Relaxation(problem, Caps())
        start = least_damage(problem, problem.prices, Caps(), start, limits, relaxation).choice
    _check_reached(problem.damage(start), limit)
    cuts = [(problem.prices, limit)]
    relaxation = Relaxation(problem)
    relaxation.hold_cuts(cuts)
    walk = Walk(problem).at_choice(start)
    solution = least_time(problem, walk, cuts, limit, limits, relaxation)
    return _allocation(problem, solution, problem.time(solution.choice))


def _least_time_together(
    problem: Problem, effects: Effects, limit: float, start: Choice, limits: SearchLimits
) -> Solution:
    """``minimize_time`` with an interaction: from the optimum of the plain sum, or from the least damage
    where that does too much together."""
    walk = Walk(problem, effects=effects)
    if problem.priced(start, problem.prices) <= raised(limit, TOLERANCE):
        walk = walk.at_choice(plain_start(problem, limit, start, limits))
    meet_limit(walk, limit)
    if walk.damage > raised(limit, TOLERANCE):
        relaxation = Relaxation(problem, Caps())
        least = least_damage_together(problem, effects, Caps(), start, limits, relaxation)
        walk = walk.at_choice(least.choice)
    _check_reached(walk.damage, limit)
    return least_time_together(problem, effects, limit, walk, limits, Relaxation(problem))


def _check_reached(least: float, limit: float) -> None:
    if least > raised(limit, TOLERANCE):
        raise UsageError(
            f"max-drop {limit:.3g}: out of reach; the least damage that can be predicted is {least:.3g};"
            f" ask for {least:.3g} or more"
        )


def _fastest(problem: Problem, start: Choice, layers: int | None, limits: SearchLimits) -> Solution:
    """The least time of all with at most ``layers`` on the longest path, as ``start`` has; in a plain problem
    that is at the least widths."""
    if problem.plain:
        least = problem.least()
        return Solution(least, problem.time(least), "optimal")
    relaxation = Relaxation(problem)
    return least_time(problem, Walk(problem).at_choice(start), [], math.inf, limits, relaxation, layers)


def _allocation(problem: Problem, solution: Solution, objective: float) -> Allocation:
    choice = problem.choice(problem.levels(solution.choice), solution.choice.options)
    return Allocation(
        choice=choice,
        time=problem.time(choice),
        damage=problem.damage(choice),
        objective=objective,
        bound=min(solution.bound, objective),
        status=solution.status,
    )


def _out_of_reach(problem: Problem, least: float, budget: float) -> str:
    full = problem.time(problem.full())
    # rounded up, so that asking for the printed figure succeeds
    reachable = int(least / full * 1000 + 1) / 1000
    means = "dims, candidate widths and options" if problem.options else "dims and candidate widths"
    return (
        f"latency {budget / full:.3g}x: out of reach; the smallest reachable with these {means} is"
        f" {reachable:.3f}x; ask for that or more, or let more dims be cut"
    )
