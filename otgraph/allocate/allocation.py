"""The allocation: widths and options, so that the damage is least within a time, or the time within a damage.

A small integer program, solved to proven optimality by OR-tools CP-SAT (``integer_program``) from the start
of a greedy solution (``incumbent``). Times are polynomials in the widths or tables (``terms``), damages a
table per dim and a number per option (``option``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from otgraph.allocate.choice import Choice
from otgraph.allocate.convex import least_damage_together, least_time_together, plain_start
from otgraph.allocate.cp_sat import Limits, Solution, Status
from otgraph.allocate.exact import least_damage, least_time
from otgraph.allocate.greedy import least_damage_start, least_time_start, meet_limit
from otgraph.allocate.interaction import Effects
from otgraph.allocate.problem import TOLERANCE, Caps, Problem, raised
from otgraph.allocate.relaxation import Relaxation
from otgraph.allocate.walk import Walk
from otgraph.errors import UsageError

DEFAULT_LIMITS = Limits()


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


def minimise_damage(problem: Problem, budget: float, limits: Limits = DEFAULT_LIMITS) -> Allocation:
    """The widths and options of least damage whose time is at most ``budget`` (within a millionth of it).

    Raises:
        UsageError: nothing meets ``budget``; the message has the smallest reachable ratio.
    """
    start = least_damage_start(problem, budget)
    if problem.time(start) > raised(budget, TOLERANCE):
        start = _fastest(problem, limits).choice
    if problem.time(start) > raised(budget, TOLERANCE):
        raise UsageError(_out_of_reach(problem, problem.time(start), budget))
    caps = Caps(budget)
    relaxation = Relaxation(problem)
    relaxation.hold_caps(caps)
    if problem.effects is None:
        solution = least_damage(problem, problem.prices, caps, start, limits, relaxation)
    else:
        solution = least_damage_together(problem, problem.effects, caps, start, limits, relaxation)
    return _allocation(problem, solution, problem.damage(solution.choice))


def minimise_time(problem: Problem, limit: float, limits: Limits = DEFAULT_LIMITS) -> Allocation:
    """The widths and options of least time whose damage is at most ``limit`` (within a millionth of it).

    An infinite ``limit`` gives the least time that can be reached at all.

    Raises:
        UsageError: even the best choice does more damage than ``limit``.
    """
    if limit == math.inf:
        solution = _fastest(problem, limits)
        return _allocation(problem, solution, problem.time(solution.choice))
    start = least_time_start(problem, limit)
    if problem.effects is not None:
        solution = _least_time_together(problem, problem.effects, limit, start, limits)
        return _allocation(problem, solution, problem.time(solution.choice))
    if problem.damage(start) > raised(limit, TOLERANCE):
        start = least_damage(problem, problem.prices, Caps(), start, limits, Relaxation(problem)).choice
    _check_reached(problem.damage(start), limit)
    cuts = [(problem.prices, limit)]
    relaxation = Relaxation(problem)
    relaxation.hold_cuts(cuts)
    walk = Walk(problem).at_choice(start)
    solution = least_time(problem, walk, cuts, limit, limits, relaxation)
    return _allocation(problem, solution, problem.time(solution.choice))


def _least_time_together(
    problem: Problem, effects: Effects, limit: float, start: Choice, limits: Limits
) -> Solution:
    """``minimise_time`` with an interaction: from the optimum of the plain sum, or from the least damage
    where that does too much together."""
    walk = Walk(problem, effects=effects)
    if problem.priced(start, problem.prices) <= raised(limit, TOLERANCE):
        walk = walk.at_choice(plain_start(problem, limit, start, limits))
    meet_limit(walk, limit)
    if walk.damage > raised(limit, TOLERANCE):
        least = least_damage_together(problem, effects, Caps(), start, limits, Relaxation(problem))
        walk = walk.at_choice(least.choice)
    _check_reached(walk.damage, limit)
    return least_time_together(problem, effects, limit, walk, limits, Relaxation(problem))


def _check_reached(least: float, limit: float) -> None:
    if least > raised(limit, TOLERANCE):
        raise UsageError(
            f"max-drop {limit:.3g}: out of reach; the least damage that can be predicted is {least:.3g};"
            f" ask for {least:.3g} or more"
        )


def _fastest(problem: Problem, limits: Limits) -> Solution:
    """The least time of all; in a plain problem that is at the least widths."""
    if problem.plain:
        least = problem.least()
        return Solution(least, problem.time(least), "optimal")
    walk = Walk(problem).at_choice(least_time_start(problem, math.inf))
    return least_time(problem, walk, [], math.inf, limits, Relaxation(problem))


def _allocation(problem: Problem, solution: Solution, objective: float) -> Allocation:
    return Allocation(
        choice=solution.choice,
        time=problem.time(solution.choice),
        damage=problem.damage(solution.choice),
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
