"""The allocation as an integer program for OR-tools CP-SAT (Perron and Furnon, Google).

One Boolean per dim and candidate, and one per option. Times and damages become integers by rounding *down*,
so that nothing feasible is cut off and every bound is a true one; what rounding lets in exceeds a limit by
less than ``TOLERANCE`` of the largest time or damage there is. Candidates that cost more than the whole
starting solution are left out before the search.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal

from otgraph.allocate.cp_model import Limits, Program
from otgraph.allocate.linear_form import down
from otgraph.allocate.problem import TOLERANCE, Point, Problem, raised

__all__ = ["Limits", "Solution", "solve_damage", "solve_time"]

_UNITS = 10**9
_NOISE = 1e-12


@dataclass(frozen=True)
class Solution:
    """The best point found, a lower bound on the objective, and whether they meet."""

    point: Point
    bound: float
    status: Literal["optimal", "feasible"]


def solve_damage(problem: Problem, budget: float, start: Point, limits: Limits) -> Solution:
    """Least damage with time at most ``budget``, never worse than ``start``."""
    floor, room = sum(problem.floors), _excess(problem, start)
    if room <= 0:
        return Solution(start, floor, "optimal")
    program = Program(problem, room, start, _time_unit(problem))
    if budget < _ceiling(problem):
        most = raised(budget, _NOISE) - problem.fixed
        program.model.add(program.time() <= down(most, program.time_unit) + 1)
    unit = max(room / _UNITS, sys.float_info.min)
    program.model.minimize(program.damage(unit))
    found, bound, status = program.search(limits)
    better = found is not None and _damage(problem, found) < _damage(problem, start)
    return Solution(found if found and better else start, floor + unit * bound, status)


def solve_time(problem: Problem, limit: float, start: Point, limits: Limits) -> Solution:
    """Least time with damage at most ``limit``, which may be infinite; never worse than ``start``."""
    most = sum(max(choice.damages) for choice in problem.choices)
    most += sum(option.damage for option in problem.options)
    bounded = raised(limit, TOLERANCE) < most
    room = max(raised(limit, TOLERANCE) - sum(problem.floors), 0.0) if bounded else math.inf
    program = Program(problem, room, start, _time_unit(problem))
    if bounded:
        unit = max(room / _UNITS, sys.float_info.min)
        program.model.add(program.damage(unit) <= down(room, unit) + 1)
    program.model.minimize(program.time())
    found, bound, status = program.search(limits)
    better = found is not None and _time(problem, found) < _time(problem, start)
    return Solution(found if found and better else start, problem.fixed + program.time_unit * bound, status)


def _damage(problem: Problem, point: Point) -> float:
    return problem.damage(point.levels, point.options)


def _time(problem: Problem, point: Point) -> float:
    return problem.time(point.levels, point.options)


def _excess(problem: Problem, point: Point) -> float:
    """The damage at ``point`` above every dim's floor; summed so, it does not drown in the floors."""
    chosen = [option for option in problem.options if option.name in point.options]
    absorbed = frozenset[str]().union(*(option.absorbs for option in chosen))
    parts = zip(problem.choices, point.levels, problem.floors, strict=True)
    over = sum(c.damages[level] - floor for c, level, floor in parts if c.name not in absorbed)
    return over + sum(option.damage for option in chosen)


def _ceiling(problem: Problem) -> float:
    """No time is above this."""
    return problem.constant + _span(problem) + problem.scopes[0].constant


def _span(problem: Problem) -> float:
    """At least the largest varying part of the time."""
    highest = sum(scope.highest(problem.candidates) for scope in problem.scopes)
    return highest - problem.scopes[0].constant


def _time_unit(problem: Problem) -> float:
    """One integer step of time: rounding all down loses less than ``TOLERANCE`` of the largest time."""
    step = {choice.name: choice.widths[0] // math.gcd(*choice.widths) for choice in problem.choices}
    steps = 0
    for scope in problem.scopes:
        steps += sum(math.prod(step[name] for name in term.dims) for term in scope.terms)
        steps += len(scope.tables) + 1
    wanted = max(float(_UNITS), 2 * steps / TOLERANCE)
    # not so fine that it would count the rounding of the floats themselves
    least = 1e-3 * _NOISE * abs(_ceiling(problem))
    return max(_span(problem) / min(wanted, 1e13), least, sys.float_info.min)
