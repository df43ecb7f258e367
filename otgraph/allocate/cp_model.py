"""``Program``: the integer program of a problem, for OR-tools CP-SAT (Perron and Furnon, Google)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ortools.sat.python import cp_model

from otgraph.allocate.linear_form import Picks, TimeForm, down, total
from otgraph.allocate.problem import Choice, Point, Problem
from otgraph.allocate.scope import Scope


@dataclass(frozen=True)
class Limits:
    """When to stop searching: ``effort`` in CP-SAT's deterministic seconds (the same result on every
    machine), and ``seconds`` of wall time as the last resort. ``seed`` is of the search."""

    effort: float = 5.0
    seconds: float = 60.0
    seed: int = 0


@dataclass
class Program:
    """The model under construction: a Boolean per (dim, level) and per option that ``room`` for damage above
    the floors allows; the start's are always there."""

    problem: Problem
    room: float
    start: Point
    time_unit: float
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    picks: dict[str, Picks] = field(default_factory=dict[str, Picks])
    chosen: dict[int, cp_model.IntVar] = field(default_factory=dict[int, cp_model.IntVar])

    def __post_init__(self) -> None:
        names = self.start.options
        self.taken = frozenset(at for at, option in enumerate(self.problem.options) if option.name in names)
        self._choose_options()
        columns = zip(self.problem.choices, self.start.levels, self.problem.floors, strict=True)
        for choice, level, floor in columns:
            self.picks[choice.name] = self._choose_level(choice, level, floor)

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

    def _choose_level(self, choice: Choice, start: int, floor: float) -> Picks:
        """One level of a dim, or an option that absorbs it."""
        able = {at: pick for at, pick in self.chosen.items() if at in self.problem.absorbers[choice.name]}
        absorbed = not self.taken.isdisjoint(able)
        best = choice.damages.index(min(choice.damages))
        picks: dict[int, cp_model.IntVar] = {}
        for level, damage in enumerate(choice.damages):
            if damage - floor <= self.room or level == (best if absorbed else start):
                picks[level] = self.model.new_bool_var(f"{choice.name}={choice.widths[level]}")
                self.model.add_hint(picks[level], int(level == start and not absorbed))
        self.model.add_exactly_one([*picks.values(), *able.values()])
        return picks

    def damage(self, unit: float) -> cp_model.LinearExpr:
        """The damage above every dim's floor, in ``unit``."""
        parts: list[cp_model.LinearExpr] = []
        for choice, floor in zip(self.problem.choices, self.problem.floors, strict=True):
            picks = self.picks[choice.name].items()
            # what costs more than there is room for is only there to keep the program whole
            most = {level: min(choice.damages[level] - floor, 2 * self.room) for level, _ in picks}
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
        levels = dict(zip(self.picks, self.start.levels, strict=True))
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

    def search(self, limits: Limits) -> tuple[Point | None, float, Literal["optimal", "feasible"]]:
        """Run CP-SAT: the point found (None when it found none in its limits), the bound in units, the
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
        proven: Literal["optimal", "feasible"] = "optimal" if outcome == cp_model.OPTIMAL else "feasible"
        if outcome not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, max(solver.best_objective_bound, 0.0), proven
        picks = self.picks.values()
        levels = tuple(next((at for at, x in each.items() if solver.boolean_value(x)), 0) for each in picks)
        names = {self.problem.options[at].name for at, x in self.chosen.items() if solver.boolean_value(x)}
        return Point(levels, frozenset(names)), solver.best_objective_bound, proven
