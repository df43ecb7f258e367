"""The allocation: widths and options, so that the damage is least within a time, or the time within a damage.

A small integer program, solved to proven optimality by OR-tools CP-SAT (``integer_program``) from the start
of a greedy solution (``incumbent``). Times are polynomials in the widths or tables (``terms``), damages a
table per dim and a number per option (``option``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from otgraph.allocate.choice import Choice
from otgraph.allocate.cp_sat import Limits, Solution, Status, solve_damage, solve_time
from otgraph.allocate.greedy import least_damage_start, least_time_start
from otgraph.allocate.layered import least_damage_within
from otgraph.allocate.problem import TOLERANCE, Problem, raised
from otgraph.allocate.quadratic import least_damage
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


def minimise_damage(
    problem: Problem,
    budget: float = math.inf,
    limits: Limits = DEFAULT_LIMITS,
    *,
    layers: int | None = None,
) -> Allocation:
    """The widths and options of least damage whose time is at most ``budget`` (within a millionth of it), or
    that leave at most ``layers`` on the longest path.

    Without an interaction this is exact up to ``limits``; with one it starts from that and is never worse.

    Raises:
        UsageError: nothing meets ``budget`` or ``layers``; the message has the smallest that can be reached.
    """
    if layers is not None:
        found = least_damage_within(problem, layers, limits)
        solution = Solution(found.choice, found.bound, found.status)
        return _allocation(problem, solution, problem.damage(solution.choice))
    plain = replace(problem, interaction=None)
    start = least_damage_start(plain, budget)
    if problem.time(start) > raised(budget, TOLERANCE):
        start = _fastest(plain, limits).choice
    if problem.time(start) > raised(budget, TOLERANCE):
        raise UsageError(_out_of_reach(problem, problem.time(start), budget))
    solution = solve_damage(plain, budget, start, limits)
    if problem.interaction is not None:
        solution = least_damage(problem, budget, solution.choice, limits)
    return _allocation(problem, solution, problem.damage(solution.choice))


def minimise_time(problem: Problem, limit: float, limits: Limits = DEFAULT_LIMITS) -> Allocation:
    """The widths and options of least time whose damage is at most ``limit`` (within a millionth of it).

    An infinite ``limit`` gives the least time that can be reached at all. An interaction is not looked at:
    the limit holds for the sum of what candidates do alone.

    Raises:
        UsageError: even the best choice does more damage than ``limit``.
    """
    problem = replace(problem, interaction=None)
    if limit == math.inf:
        solution = _fastest(problem, limits)
        return _allocation(problem, solution, problem.time(solution.choice))
    start = least_time_start(problem, limit)
    if problem.damage(start) > raised(limit, TOLERANCE):
        start = solve_damage(problem, math.inf, start, limits).choice
    least = problem.damage(start)
    if least > raised(limit, TOLERANCE):
        raise UsageError(
            f"max-drop {limit:.3g}: out of reach; the least damage that can be predicted is {least:.3g};"
            f" ask for {least:.3g} or more"
        )
    solution = solve_time(problem, limit, start, limits)
    return _allocation(problem, solution, problem.time(solution.choice))


def _fastest(problem: Problem, limits: Limits) -> Solution:
    """The least time of all; in a plain problem that is at the least widths."""
    if problem.plain:
        least = problem.least()
        return Solution(least, problem.time(least), "optimal")
    return solve_time(problem, math.inf, least_time_start(problem, math.inf), limits)


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
