"""The allocation as an integer program for OR-tools CP-SAT (Perron and Furnon, Google).

One Boolean per dim and candidate, and one per option. Times and damages become integers by rounding *down*,
so that nothing feasible is cut off and every bound is a true one; what rounding lets in exceeds a limit by
less than ``TOLERANCE`` of the largest time or damage there is. Candidates that cost more than the whole
starting solution are left out before the search.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ortools.sat.python import cp_model

from otgraph.allocate.choice import Choice
from otgraph.allocate.linear_form import Picks, TimeForm, down, total
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem, raised
from otgraph.allocate.scope import Scope

Status = Literal["optimal", "feasible"]
_UNITS = 10**9
_NOISE = 1e-12


@dataclass(frozen=True)
class Limits:
    """When to stop searching: ``effort`` in CP-SAT's deterministic seconds (the same result on every
    machine), and ``seconds`` of wall time as the last resort. ``seed`` is of the search."""

    effort: float = 5.0
    seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Solution:
    """The best choice found, a lower bound on the objective, and whether they meet."""

    choice: Choice
    bound: float
    status: Status


def solve_damage(problem: Problem, budget: float, start: Choice, limits: Limits) -> Solution:
    """Least damage with time at most ``budget``, never worse than ``start``."""
    floor, room = sum(problem.floors), _excess(problem, start)
    if room <= 0:
        return Solution(start, floor, "optimal")
    program = CpModel(problem, room, start, _time_unit(problem))
    if budget < _ceiling(problem):
        most = raised(budget, _NOISE) - problem.fixed
        program.model.add(program.time() <= down(most, program.time_unit) + 1)
    unit = max(room / _UNITS, sys.float_info.min)
    program.model.minimize(program.damage(unit))
    found, bound, status = program.search(limits)
    better = found is not None and problem.damage(found) < problem.damage(start)
    return Solution(found if found and better else start, floor + unit * bound, status)


def solve_time(problem: Problem, limit: float, start: Choice, limits: Limits) -> Solution:
    """Least time with damage at most ``limit``, which may be infinite; never worse than ``start``."""
    most = sum(max(dim.damages) for dim in problem.dims)
    most += sum(option.damage for option in problem.options)
    bounded = raised(limit, TOLERANCE) < most
    room = max(raised(limit, TOLERANCE) - sum(problem.floors), 0.0) if bounded else math.inf
    program = CpModel(problem, room, start, _time_unit(problem))
    if bounded:
        unit = max(room / _UNITS, sys.float_info.min)
        program.model.add(program.damage(unit) <= down(room, unit) + 1)
    program.model.minimize(program.time())
    found, bound, status = program.search(limits)
    better = found is not None and problem.time(found) < problem.time(start)
    return Solution(found if found and better else start, problem.fixed + program.time_unit * bound, status)


def _excess(problem: Problem, choice: Choice) -> float:
    """The damage of ``choice`` above every dim's floor; summed so, it does not drown in the floors."""
    chosen = problem.chosen(choice.options)
    absorbed = frozenset[str]().union(*(option.absorbs for option in chosen))
    parts = zip(problem.dims, problem.levels(choice), problem.floors, strict=True)
    over = sum(dim.damages[level] - floor for dim, level, floor in parts if dim.name not in absorbed)
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
    step = {dim.name: dim.widths[0] // math.gcd(*dim.widths) for dim in problem.dims}
    steps = 0
    for scope in problem.scopes:
        steps += sum(math.prod(step[name] for name in term.dims) for term in scope.terms)
        steps += len(scope.tables) + 1
    wanted = max(float(_UNITS), 2 * steps / TOLERANCE)
    # not so fine that it would count the rounding of the floats themselves
    least = 1e-3 * _NOISE * abs(_ceiling(problem))
    return max(_span(problem) / min(wanted, 1e13), least, sys.float_info.min)


@dataclass
class CpModel:
    """The model under construction: a Boolean per (dim, level) and per option that ``room`` for damage above
    the floors allows; the start's are always there."""

    problem: Problem
    room: float
    start: Choice
    time_unit: float
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    picks: dict[str, Picks] = field(default_factory=dict[str, Picks])
    chosen: dict[int, cp_model.IntVar] = field(default_factory=dict[int, cp_model.IntVar])

    def __post_init__(self) -> None:
        names = self.start.options
        self.taken = frozenset(at for at, option in enumerate(self.problem.options) if option.name in names)
        self._choose_options()
        self.levels = self.problem.levels(self.start)
        columns = zip(self.problem.dims, self.levels, self.problem.floors, strict=True)
        for dim, level, floor in columns:
            self.picks[dim.name] = self._choose_level(dim, level, floor)

    def _choose_options(self) -> None:
        options = self.problem.options
        for at, option in enumerate(options):
            if option.damage <= self.room or at in self.taken:
                self.chosen[at] = self.model.new_bool_var(option.name)
                self.model.add_hint(self.chosen[at], int(at in self.taken))
        for one, other in itertools.combinations(self.chosen, 2):
            if other in self.problem.exclusions[one]:
                self.model.add_at_most_one(self.chosen[one], self.chosen[other])
        for node in self.problem.nodes:
            able = [pick for at, pick in self.chosen.items() if node.node in options[at].removes]
            if len(able) > 2:
                self.model.add_at_most_one(able)

    def _choose_level(self, dim: DimOptions, start: int, floor: float) -> Picks:
        """One level of a dim, or an option that absorbs it."""
        able = {at: pick for at, pick in self.chosen.items() if at in self.problem.absorbers[dim.name]}
        absorbed = not self.taken.isdisjoint(able)
        best = dim.damages.index(min(dim.damages))
        picks: dict[int, cp_model.IntVar] = {}
        for level, damage in enumerate(dim.damages):
            if damage - floor <= self.room or level == (best if absorbed else start):
                picks[level] = self.model.new_bool_var(f"{dim.name}={dim.widths[level]}")
                self.model.add_hint(picks[level], int(level == start and not absorbed))
        self.model.add_exactly_one([*picks.values(), *able.values()])
        return picks

    def damage(self, unit: float) -> cp_model.LinearExpr:
        """The damage above every dim's floor, in ``unit``."""
        parts: list[cp_model.LinearExpr] = []
        for dim, floor in zip(self.problem.dims, self.problem.floors, strict=True):
            picks = self.picks[dim.name].items()
            # what costs more than there is room for is only there to keep the program whole
            most = {level: min(dim.damages[level] - floor, 2 * self.room) for level, _ in picks}
            parts += [down(most[level], unit) * pick for level, pick in picks]
        parts += [down(self.problem.options[at].damage, unit) * pick for at, pick in self.chosen.items()]
        return total(parts)

    def time(self) -> cp_model.LinearExpr:
        """The varying part of the time, in ``time_unit``."""
        parts: list[cp_model.LinearExpr] = []
        for scope in self.problem.scopes:
            if scope.adder is None or scope.adder in self.chosen:
                parts += self._time(scope)
        return total(parts)

    def _time(self, scope: Scope) -> list[cp_model.LinearExpr]:
        levels = dict(zip(self.picks, self.levels, strict=True))
        starts = levels if scope.active(self.taken) else None
        picks = {name: self._seen(scope, name, starts) for name in scope.dims}
        form = TimeForm(self.model, self.problem.candidates, picks, starts, self.time_unit)
        parts = [form.time(scope)]
        if scope is not self.problem.scopes[0]:
            parts.append(down(scope.constant, self.time_unit) * self._active(scope))
        return parts

    def _active(self, scope: Scope) -> cp_model.LinearExpr:
        if scope.adder is not None:
            return 1 * self.chosen[scope.adder]
        return 1 - total(self.chosen[at] for at in sorted(scope.removers) if at in self.chosen)

    def _seen(self, scope: Scope, name: str, starts: Mapping[str, int] | None) -> Picks:
        """The picks of a dim as a scope sees them: the dim's own where the scope counts whenever the dim is
        there, else others, below them, that add up to whether it does."""
        own = self.picks[name]
        if (
            scope.adder is None
            and self.chosen.keys() & (scope.removers - self.problem.absorbers[name]) == set()
        ):
            return own
        seen: dict[int, cp_model.IntVar] = {}
        for level, pick in own.items():
            seen[level] = self.model.new_bool_var(f"{pick.name}?")
            self.model.add_implication(seen[level], pick)
            self.model.add_hint(seen[level], int(starts is not None and starts[name] == level))
        self.model.add(total(seen.values()) == self._active(scope))
        return seen

    def search(self, limits: Limits) -> tuple[Choice | None, float, Status]:
        """Run CP-SAT: the choice found (None when it found none in its limits), the bound in units, the
        status."""
        solver = cp_model.CpSolver()
        solver.parameters.random_seed = limits.seed
        solver.parameters.num_workers = 1
        solver.parameters.linearization_level = 2  # the full relaxation closes the gap several times sooner
        # the relaxation does the work; these took most of the time and found nothing in it
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.find_big_linear_overlap = False
        solver.parameters.add_lp_constraints_lazily = False
        solver.parameters.max_deterministic_time = limits.effort
        solver.parameters.max_time_in_seconds = limits.seconds
        outcome = solver.solve(self.model)
        if outcome == cp_model.MODEL_INVALID:
            raise RuntimeError(f"the allocation's program is wrong: {self.model.validate()}")
        if outcome == cp_model.INFEASIBLE:
            # the start only keeps its limit within the tolerance, and nothing that keeps it is as good
            return None, math.inf, "optimal"
        proven: Status = "optimal" if outcome == cp_model.OPTIMAL else "feasible"
        if outcome not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, max(solver.best_objective_bound, 0.0), proven
        picks = self.picks.values()
        levels = tuple(next((at for at, x in each.items() if solver.boolean_value(x)), 0) for each in picks)
        names = {self.problem.options[at].name for at, x in self.chosen.items() if solver.boolean_value(x)}
        return self.problem.choice(levels, names), solver.best_objective_bound, proven
