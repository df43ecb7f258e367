"""The allocation: one width per dim, so that the damage is least within a time, or the time within a damage.

A small integer program, solved to proven optimality by OR-tools CP-SAT (``integer_program``) from the start
of a greedy solution (``incumbent``). Times are polynomials in the widths (``terms``), damages a table per
dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from otgraph.errors import UsageError
from otgraph.plan.incumbent import least_damage_start, least_time_start
from otgraph.plan.integer_program import Limits, Solution, solve_damage, solve_time
from otgraph.plan.problem import TOLERANCE, Choice, Problem, raised

DEFAULT_LIMITS = Limits()

__all__ = ["Allocation", "Choice", "Limits", "Problem", "minimise_damage", "minimise_time"]


@dataclass(frozen=True)
class Allocation:
    """The chosen widths by dim, the time and damage they are predicted to have, and how good that is.

    ``bound`` is a proven lower bound on the objective (damage or time); ``status`` says whether the search
    reached it (*optimal*) or ran into its limit (*feasible*).
    """

    widths: Mapping[str, int]
    time: float
    damage: float
    objective: float
    bound: float
    status: Literal["optimal", "feasible"]

    @property
    def gap(self) -> float:
        """How far the objective may be from the best one, as a fraction of it."""
        return 0.0 if self.objective <= self.bound else (self.objective - self.bound) / self.objective


def minimise_damage(problem: Problem, budget: float, limits: Limits = DEFAULT_LIMITS) -> Allocation:
    """The widths of least damage whose time is at most ``budget`` (within a millionth of it).

    Raises:
        UsageError: not even the least widths meet ``budget``; the message has the smallest reachable ratio.
    """
    least = problem.time(problem.least())
    if least > raised(budget, TOLERANCE):
        raise UsageError(_out_of_reach(problem, least, budget))
    start = least_damage_start(problem, budget)
    solution = solve_damage(problem, budget, start, limits)
    return _allocation(problem, solution, problem.damage(solution.levels))


def minimise_time(problem: Problem, limit: float, limits: Limits = DEFAULT_LIMITS) -> Allocation:
    """The widths of least time whose damage is at most ``limit`` (within a millionth of it).

    Raises:
        UsageError: even the best widths do more damage than ``limit``.
    """
    least = sum(min(choice.damages) for choice in problem.choices)
    if least > raised(limit, TOLERANCE):
        raise UsageError(
            f"max-drop {limit:.3g}: out of reach; the least damage that can be predicted is {least:.3g};"
            f" ask for {least:.3g} or more"
        )
    start = least_time_start(problem, limit)
    solution = solve_time(problem, limit, start, limits)
    return _allocation(problem, solution, problem.time(solution.levels))


def _allocation(problem: Problem, solution: Solution, objective: float) -> Allocation:
    return Allocation(
        widths=problem.widths(solution.levels),
        time=problem.time(solution.levels),
        damage=problem.damage(solution.levels),
        objective=objective,
        bound=min(solution.bound, objective),
        status=solution.status,
    )


def _out_of_reach(problem: Problem, least: float, budget: float) -> str:
    full = problem.time(problem.full())
    # rounded up, so that asking for the printed figure succeeds
    reachable = int(least / full * 1000 + 1) / 1000
    return (
        f"latency {budget / full:.3g}x: out of reach; the smallest reachable with these dims and candidate"
        f" widths is {reachable:.3f}x; ask for that or more, or let more dims be cut"
    )
