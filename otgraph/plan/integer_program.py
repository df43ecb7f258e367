"""The allocation as an integer program for OR-tools CP-SAT (Perron and Furnon, Google).

One Boolean per dim and candidate. Times and damages become integers by rounding *down*, so that nothing
feasible is cut off and every bound is a true one; what rounding lets in exceeds a limit by less than
``TOLERANCE`` of it. Candidates that cost more than the whole starting solution are left out before the
search.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ortools.sat.python import cp_model

from otgraph.plan.problem import TOLERANCE, Levels, Problem, raised
from otgraph.plan.terms import Term

_UNITS = 10**9
_NOISE = 1e-12


@dataclass(frozen=True)
class Limits:
    """When to stop searching: ``effort`` in CP-SAT's deterministic seconds (the same result on every
    machine), and
    ``seconds`` of wall time as the last resort. ``seed`` is of the search."""

    effort: float = 5.0
    seconds: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Solution:
    """The best levels found, a lower bound on the objective, and whether they meet."""

    levels: Levels
    bound: float
    status: Literal["optimal", "feasible"]


def solve_damage(problem: Problem, budget: float, start: Levels, limits: Limits) -> Solution:
    """Least damage with time at most ``budget``, never worse than ``start``."""
    floor = sum(min(choice.damages) for choice in problem.choices)
    room = _excess(problem, start)
    if room <= 0:
        return Solution(start, floor, "optimal")
    program = _Program(problem, _window(problem, room, start), start, time_unit=_time_unit(problem))
    most = raised(min(budget, problem.time(problem.full())), _NOISE)
    program.model.add(program.time() <= _down(most - problem.fixed, program.time_unit) + 1)
    unit = max(room / _UNITS, sys.float_info.min)
    program.model.minimize(program.damage(unit))
    levels, bound, status = program.search(limits)
    best = levels if levels and problem.damage(levels) < problem.damage(start) else start
    return Solution(best, floor + unit * bound, status)


def solve_time(problem: Problem, limit: float, start: Levels, limits: Limits) -> Solution:
    """Least time with damage at most ``limit``, never worse than ``start``."""
    floor = sum(min(choice.damages) for choice in problem.choices)
    room = max(raised(limit, TOLERANCE) - floor, 0.0)
    program = _Program(problem, _window(problem, room, start), start, time_unit=_time_unit(problem))
    unit = max(room / _UNITS, sys.float_info.min)
    program.model.add(program.damage(unit) <= _down(room, unit) + 1)
    program.model.minimize(program.time())
    levels, bound, status = program.search(limits)
    best = levels if levels and problem.time(levels) < problem.time(start) else start
    return Solution(best, problem.fixed + program.time_unit * bound, status)


def _excess(problem: Problem, levels: Levels) -> float:
    """The damage at ``levels`` above every dim's least; summed so, it does not drown in the leasts."""
    pairs = zip(problem.choices, levels, strict=True)
    return sum(choice.damages[level] - min(choice.damages) for choice, level in pairs)


def _window(problem: Problem, room: float, start: Levels) -> list[list[int]]:
    """Per dim the levels whose damage exceeds the dim's least by at most ``room``, and the starting level."""
    return [
        [
            level
            for level, damage in enumerate(choice.damages)
            if damage - min(choice.damages) <= room or level == begin
        ]
        for choice, begin in zip(problem.choices, start, strict=True)
    ]


def _time_unit(problem: Problem) -> float:
    """One integer step of time: so fine that rounding all coefficients down stays within ``TOLERANCE``."""
    full = problem.widths(problem.full())
    varying = sum(term.at(full) for term in problem.varying)
    steps = sum(math.prod(_largest(problem, name) for name in term.dims) for term in problem.varying)
    wanted = max(float(_UNITS), 2 * steps / TOLERANCE)
    # not so fine that it would count the rounding of the floats themselves
    return max(varying / min(wanted, 1e13), 1e-3 * _NOISE * abs(problem.time_at(full)), sys.float_info.min)


def _largest(problem: Problem, name: str) -> int:
    widths = next(choice.widths for choice in problem.choices if choice.name == name)
    return widths[0] // math.gcd(*widths)


def _down(value: float, unit: float) -> int:
    return math.floor(value / unit)


@dataclass(frozen=True)
class _Linear:
    """A linear expression with its least and largest value, and its value at the start."""

    expression: cp_model.LinearExpr
    low: int
    high: int
    start: int


@dataclass
class _Program:
    """The model under construction: a Boolean per allowed (dim, level), and an integer for each factor in
    use."""

    problem: Problem
    allowed: list[list[int]]
    start: Levels
    time_unit: float
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    picks: dict[str, dict[int, cp_model.IntVar]] = field(
        default_factory=dict[str, dict[int, cp_model.IntVar]]
    )

    def __post_init__(self) -> None:
        for choice, levels, start in zip(self.problem.choices, self.allowed, self.start, strict=True):
            picks = {
                level: self.model.new_bool_var(f"{choice.name}={choice.widths[level]}") for level in levels
            }
            self.model.add_exactly_one(picks.values())
            for level, pick in picks.items():
                self.model.add_hint(pick, int(level == start))
            self.picks[choice.name] = picks
        self.choices = {choice.name: choice for choice in self.problem.choices}
        self.starts = {
            choice.name: level for choice, level in zip(self.problem.choices, self.start, strict=True)
        }

    def damage(self, unit: float) -> cp_model.LinearExpr:
        """The damage above every dim's least, in ``unit``."""
        parts: list[cp_model.LinearExpr] = []
        for name, picks in self.picks.items():
            damages = self.choices[name].damages
            floor = min(damages)
            parts += [_down(damages[level] - floor, unit) * pick for level, pick in picks.items()]
        return _total(parts)

    def time(self) -> cp_model.LinearExpr:
        """The varying part of the time, in ``time_unit``."""
        return self._sum(self.problem.varying).expression

    def _sum(self, terms: Iterable[Term]) -> _Linear:
        """A polynomial as a linear expression: tables for single dims, and dim by dim (Horner) for
        products."""
        terms = tuple(terms)
        parts = [self._table(term) for term in terms if len(set(term.dims)) == 1]
        rest = [term for term in terms if len(set(term.dims)) > 1]
        while rest:
            hub, power = _most_shared(rest)
            parts.append(self._product(hub, power, [t for t in rest if t.dims.count(hub) == power]))
            rest = [term for term in rest if term.dims.count(hub) != power]
        return _add(parts)

    def _table(self, term: Term) -> _Linear:
        """A term in one dim is a table over the dim's candidates."""
        name, power = term.dims[0], len(term.dims)
        widths = self.choices[name].widths
        table = {
            level: _down(term.coefficient * widths[level] ** power, self.time_unit)
            for level in self.picks[name]
        }
        return _Linear(
            _total([table[level] * pick for level, pick in self.picks[name].items()]),
            min(table.values()),
            max(table.values()),
            table[self.starts[name]],
        )

    def _product(self, hub: str, power: int, terms: list[Term]) -> _Linear:
        """Terms that share a dim, as a layer or a concatenation gives: width(hub)^power × a polynomial.

        The polynomial's value is split over the hub's candidates (one part is the value, the others are
        zero), which makes the product linear with a tight relaxation. With a product constraint per
        term, DenseNet-121 and a chain of 60 dims stayed open after 20 seconds; so they close in a few.
        """
        picks, widths = self.picks[hub], self.choices[hub].widths
        divisor = math.gcd(*(widths[level] for level in picks)) ** power
        scale = {level: widths[level] ** power // divisor for level in picks}
        value = self._sum(_without(term, hub, divisor) for term in terms)
        parts: dict[int, cp_model.IntVar] = {}
        for level, pick in picks.items():
            parts[level] = self.model.new_int_var(0, value.high, f"{hub}={widths[level]}*")
            self.model.add(parts[level] <= value.high * pick)
            self.model.add(parts[level] >= value.low * pick)
            self.model.add_hint(parts[level], value.start if level == self.starts[hub] else 0)
        self.model.add(_total(list(parts.values())) == value.expression)
        return _Linear(
            _total([scale[level] * part for level, part in parts.items()]),
            min(scale.values()) * value.low,
            max(scale.values()) * value.high,
            scale[self.starts[hub]] * value.start,
        )

    def search(self, limits: Limits) -> tuple[Levels | None, float, Literal["optimal", "feasible"]]:
        """Run CP-SAT: the levels found (None when it found none in its limits), the bound in units, the
        status."""
        solver = cp_model.CpSolver()
        solver.parameters.random_seed = limits.seed
        solver.parameters.num_workers = 1
        solver.parameters.linearization_level = 2  # the full relaxation closes the gap several times sooner
        solver.parameters.max_deterministic_time = limits.effort
        solver.parameters.max_time_in_seconds = limits.seconds
        outcome = solver.solve(self.model)
        proven: Literal["optimal", "feasible"] = "optimal" if outcome == cp_model.OPTIMAL else "feasible"
        if outcome not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, max(solver.best_objective_bound, 0.0), proven
        levels = tuple(
            next(level for level, pick in self.picks[choice.name].items() if solver.boolean_value(pick))
            for choice in self.problem.choices
        )
        return levels, solver.best_objective_bound, proven


def _total(parts: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    expression: Any = cp_model.LinearExpr  # its stubs leave the arguments of sum without a type
    return cast(cp_model.LinearExpr, expression.sum(list(parts)))


def _add(parts: list[_Linear]) -> _Linear:
    return _Linear(
        _total([part.expression for part in parts]),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
        sum(part.start for part in parts),
    )


def _without(term: Term, hub: str, factor: float) -> Term:
    return Term(term.coefficient * factor, tuple(name for name in term.dims if name != hub))


def _most_shared(terms: list[Term]) -> tuple[str, int]:
    """The dim, with its power, that most of ``terms`` have in common."""
    counts = Counter((name, term.dims.count(name)) for term in terms for name in set(term.dims))
    return max(counts, key=lambda key: (counts[key], key))
