"""The allocation as an integer program for OR-tools CP-SAT (Perron and Furnon, Google).

One Boolean per dim and candidate, and one per option. Times and damages become integers by rounding *down*,
so that nothing feasible is cut off and every bound is a true one; what rounding lets in exceeds a limit by
less than ``TOLERANCE`` of the largest time or damage there is. Candidates that cost more than the whole
starting solution are left out before the search.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ortools.sat.python import cp_model

from otgraph.allocate.choice import Choice
from otgraph.allocate.floors import Floors, Kept
from otgraph.allocate.linear_form import Picks, TimeForm, down, total
from otgraph.allocate.prices import Cut, Prices
from otgraph.allocate.problem import TOLERANCE, Caps, DimOptions, Problem, raised
from otgraph.allocate.scope import Scope

Status = Literal["optimal", "feasible"]
_UNITS = 10**9
_NOISE = 1e-12


@dataclass(frozen=True)
class SearchLimits:
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


def solve_damage(
    problem: Problem,
    prices: Prices,
    caps: Caps,
    start: Choice,
    limits: SearchLimits,
    kept: Kept | None = None,
) -> Solution:
    """Least damage by ``prices`` within ``caps``, never worse than ``start``; of the candidates ``kept``
    only, if given, and then the bound is that of what they can do."""
    floors = Floors(problem, prices)
    room = floors.above(start)
    if room <= 0:
        return Solution(start, floors.total, "optimal")
    able = floors.kept(start, room)
    model = CpModel(problem, start, able if kept is None else able.both(kept), _time_unit(problem))
    model.keep_within(caps)
    unit = max(room / _UNITS, sys.float_info.min)
    model.model.minimize(model.damage(floors, room, unit))
    found, bound, status = model.search(limits)
    better = found is not None and problem.priced(found, prices) < problem.priced(start, prices)
    return Solution(found if found and better else start, floors.total + unit * bound, status)


def solve_time(
    problem: Problem,
    cuts: Sequence[Cut],
    start: Choice,
    limits: SearchLimits,
    kept: Kept | None = None,
    layers: int | None = None,
) -> Solution:
    """Least time with the damage by each of ``cuts`` within its limit and at most ``layers`` on the longest
    path; never worse than ``start``. ``kept``: as of ``solve_damage``."""
    bounded = [(Floors(problem, prices), raised(limit, TOLERANCE)) for prices, limit in cuts]
    bounded = [(floors, limit) for floors, limit in bounded if limit < floors.ceiling]
    rooms = [max(limit - floors.total, 0.0) for floors, limit in bounded]
    able = [floors.kept(start, room) for (floors, _), room in zip(bounded, rooms, strict=True)]
    everything = Kept.everything(problem) if kept is None else kept
    model = CpModel(problem, start, functools.reduce(Kept.both, able, everything), _time_unit(problem))
    for (floors, _), room in zip(bounded, rooms, strict=True):
        unit = max(room / _UNITS, sys.float_info.min)
        model.model.add(model.damage(floors, room, unit) <= down(room, unit) + 1)
    model.keep_within(Caps(layers=layers))
    model.model.minimize(model.time())
    found, bound, status = model.search(limits)
    better = found is not None and problem.time(found) < problem.time(start)
    return Solution(found if found and better else start, problem.fixed + model.time_unit * bound, status)


def solve_layers(problem: Problem, start: Choice, limits: SearchLimits) -> Solution:
    """Fewest layers on the longest path, whatever the time and the damage."""
    model = CpModel(problem, start, Kept.everything(problem), _time_unit(problem))
    most = int(problem.paths.layers.sum() + np.maximum(problem.paths.changes, 0).sum())
    longest = model.model.new_int_var(0, most, "longest")
    model.model.add_hint(longest, problem.longest(start))
    for depth in model.depths(most):
        model.model.add(longest >= depth)
    model.model.minimize(longest)
    found, bound, status = model.search(limits)
    return Solution(start if found is None else found, bound, status)


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
    """The model under construction: a Boolean per (dim, level) and per option that is ``kept``."""

    problem: Problem
    start: Choice
    kept: Kept
    time_unit: float
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    picks: dict[str, Picks] = field(default_factory=dict[str, Picks])
    chosen: dict[int, cp_model.IntVar] = field(default_factory=dict[int, cp_model.IntVar])

    def __post_init__(self) -> None:
        self.taken = frozenset(self.problem.position[name] for name in self.start.options)
        self.levels = self.problem.levels(self.start)
        self._choose_options()
        columns = zip(self.problem.dims, self.levels, self.kept.levels, strict=True)
        for dim, level, kept in columns:
            self.picks[dim.name] = self._choose_level(dim, level, sorted(kept))

    def _choose_options(self) -> None:
        options = self.problem.options
        for at in sorted(self.kept.options):
            self.chosen[at] = self.model.new_bool_var(options[at].name)
            self.model.add_hint(self.chosen[at], int(at in self.taken))
        for clique in self.problem.cliques:
            able = [self.chosen[at] for at in sorted(clique & self.kept.options)]
            if len(able) > 1:
                self.model.add_at_most_one(able)

    def _choose_level(self, dim: DimOptions, start: int, kept: Sequence[int]) -> Picks:
        """One level of a dim, or an option that absorbs it."""
        able = {at: pick for at, pick in self.chosen.items() if at in self.problem.absorbers[dim.name]}
        absorbed = not self.taken.isdisjoint(able)
        picks: dict[int, cp_model.IntVar] = {}
        for level in kept:
            picks[level] = self.model.new_bool_var(f"{dim.name}={dim.widths[level]}")
            self.model.add_hint(picks[level], int(level == start and not absorbed))
        self.model.add_exactly_one([*picks.values(), *able.values()])
        return picks

    def keep_within(self, caps: Caps) -> None:
        """Hold the time and the longest path to ``caps``."""
        if caps.layers is not None:
            for depth in self.depths(caps.layers):
                self.model.add(depth <= caps.layers)
        if caps.time < _ceiling(self.problem):
            most = raised(caps.time, _NOISE) - self.problem.fixed
            self.model.add(self.time() <= down(most, self.time_unit) + 1)

    def depths(self, most: int) -> list[cp_model.IntVar]:
        """How deep each node of ``Problem.paths`` is at least; none is deeper than ``most``."""
        paths = self.problem.paths
        chosen = np.array([at in self.taken for at in range(len(self.problem.options))])
        starts = paths.depths(chosen[None])[0]
        depths: list[cp_model.IntVar] = []
        for node, sources in enumerate(paths.sources):
            depths.append(self.model.new_int_var(0, most, f"depth of {node}"))
            self.model.add_hint(depths[node], int(starts[node]))
            changes = [(pick, int(paths.changes[at, node])) for at, pick in self.chosen.items()]
            own = int(paths.layers[node]) + total(change * pick for pick, change in changes if change)
            for source in sources:
                self.model.add(depths[node] >= depths[source] + own)
            if not sources:
                self.model.add(depths[node] >= own)
        return depths

    def damage(self, floors: Floors, room: float, unit: float) -> cp_model.LinearExpr:
        """The damage above the floors, in ``unit``."""
        parts: list[cp_model.LinearExpr] = []
        taken = self.chosen.items()
        columns = zip(self.picks.values(), floors.prices.dims, floors.dims, strict=True)
        for (picks, alone, floor), dim in zip(columns, self.problem.dims, strict=True):
            # what costs more than there is room for is only there to keep the program whole
            most = {level: min(alone[level] - floor, 2 * room) for level in picks}
            parts += [down(most[level], unit) * pick for level, pick in picks.items()]
            if floor < 0:
                absorbers = self.problem.absorbers[dim.name]
                parts += [down(-floor, unit) * pick for at, pick in taken if at in absorbers]
        for at, pick in taken:
            price = floors.prices.options[at]
            size = down(min(abs(price), 2 * room), unit)
            parts.append(size * pick if price >= 0 else size * (1 - pick))
        return total(parts)

    def time(self) -> cp_model.LinearExpr:
        """The varying part of the time, in ``time_unit``."""
        parts: list[cp_model.LinearExpr] = []
        for at, scope in enumerate(self.problem.scopes):
            if scope.adder is None or scope.adder in self.chosen:
                parts += self._time(at, scope)
        return total(parts)

    def _time(self, at: int, scope: Scope) -> list[cp_model.LinearExpr]:
        levels = dict(zip(self.picks, self.levels, strict=True))
        starts = levels if scope.active(self.taken) else None
        picks = {name: self._seen(scope, name, starts) for name in scope.dims}
        form = TimeForm(self.model, self.problem.candidates, picks, starts, self.time_unit)
        masks = [self.kept.pairs.get((at, number)) for number in range(len(scope.tables))]
        parts = [form.time(scope, masks)]
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

    def search(self, limits: SearchLimits) -> tuple[Choice | None, float, Status]:
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
        solver.parameters.catch_sigint_signal = False  # else it takes an interrupt for the end of its search
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
