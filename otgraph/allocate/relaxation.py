"""``Relaxation``: the integer program of a problem without its integrality, solved by GLOP.

Its value is a lower bound, and its reduced costs say by how much the bound grows when a candidate is taken
that it does not take; candidates for which that is too much are ruled out (reduced-cost fixing, Balas and
Martin, 1980). The relaxation is that of ``cp_sat``, tables over two dims as local polytopes included, which
is so tight that few candidates are left. Products of dims that are too many for tables, or of three dims,
are counted at the least widths.

GLOP computes in floats. Every figure here follows from the dual values alone, by arithmetic of our own with a
margin for its rounding: for ``min c·x``, ``low ≤ Ax ≤ high``, ``0 ≤ x ≤ u``, any ``y`` proves

    ``c·x ≥ Σ (low or high) · y + Σ min(0, (c − Aᵀy) · u)``

so that a poor solution of GLOP's costs strength and never truth.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ortools.linear_solver.linear_solver_pb2 import MPModelProto
from ortools.linear_solver.pywraplp import MPSolverParameters, Solver

from otgraph.allocate.choice import Choice
from otgraph.allocate.floors import Kept
from otgraph.allocate.prices import Cut, Prices
from otgraph.allocate.problem import TOLERANCE, Caps, Problem, raised
from otgraph.allocate.scope import Scope

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_MARGIN = 1e-11
"""Of the sizes that are added up to a bound: their rounding, many times over."""


_NOTHING = 1e-290
"""Less than this is no coefficient: its quotients are not finite."""

_HALF = 1e-6
"""Of two options that exclude each other, rounding may not have both."""


@dataclass(frozen=True)
class Linear:
    """``constant + Σ coefficients · x``, one coefficient per column."""

    coefficients: Floats
    constant: float

    def at(self, values: Floats) -> float:
        """The value at the columns' ``values``."""
        return self.constant + float(self.coefficients @ values)


@dataclass(frozen=True)
class Relaxed:
    """A solution of the relaxation: ``bound``, a true lower bound on the objective; ``values`` of the
    levels' and options' columns; and ``costs``: by how much the bound grows when a column is 1 that is 0 in
    the solution."""

    bound: float
    values: Floats
    costs: Floats


@dataclass
class _Rows:
    """Rows ``low ≤ Σ coefficients · x ≤ high`` under construction."""

    columns: list[Integers] = field(default_factory=list[Integers])
    coefficients: list[Floats] = field(default_factory=list[Floats])
    low: list[float] = field(default_factory=list[float])
    high: list[float] = field(default_factory=list[float])

    def insert(self, low: float, columns: Integers, coefficients: Floats, high: float) -> None:
        """A row; GLOP wants none without columns."""
        if not len(columns):
            return
        self.columns.append(columns)
        self.coefficients.append(coefficients)
        self.low.append(low)
        self.high.append(high)

    def add(self, low: float, parts: Iterable[tuple[Iterable[int], float]], high: float) -> None:
        """A row from columns that have one coefficient each time."""
        arrays = [(np.array(list(columns), np.int64), value) for columns, value in parts]
        coefficients = [np.full(len(columns), value) for columns, value in arrays]
        columns = np.concatenate([columns for columns, _ in arrays])
        self.insert(low, columns, np.concatenate(coefficients), high)


class Relaxation:
    """The relaxation of ``problem`` within ``caps``; ``hold`` adds limits, ``minimize`` solves it.

    ``picks``: the columns of each dim's levels; ``options``: those of the options; ``pairs``: by scope and
    table, those of the pairs of levels, shaped like the table; ``time``: the time as a linear form.
    """

    def __init__(self, problem: Problem, caps: Caps | None = None) -> None:
        self.problem = problem
        self.count = 0
        self.rows = _Rows()
        self.picks = {dim.name: self._new(len(dim.widths)) for dim in problem.dims}
        self.options = self._new(len(problem.options))
        self.main = self.count
        self.pairs: dict[tuple[int, int], Integers] = {}
        self._choose()
        most = [1.0] * self.count
        if caps is not None and caps.layers is not None:
            most += [float(caps.layers)] * self._depths(caps.layers)
        # without a limit on it the time is only of use as the objective, and it is most of the program
        timed = caps is None or caps.time < math.inf
        parts: list[tuple[Integers, Floats]] = []
        constant = problem.fixed
        for at, scope in enumerate(problem.scopes if timed else ()):
            found, added = self._scope(at, scope)
            parts, constant = parts + found, constant + added
        self.time = self._linear(parts, constant)
        self.upper = np.array(most + [1.0] * (self.count - len(most)))
        self.solver: _Solver | None = None
        if caps is not None and timed:
            self.hold(self.time, raised(caps.time, TOLERANCE))

    def _depths(self, layers: int) -> int:
        """Hold the longest path to ``layers``: a column per node of ``Problem.paths`` for how deep it is; how
        many."""
        paths = self.problem.paths
        depths = self._new(len(paths.layers))
        for node, sources in enumerate(paths.sources):
            changes = paths.changes[:, node]
            parts: list[tuple[Iterable[int], float]] = [([depths[node]], 1.0)]
            parts += [([self.options[at]], -float(changes[at])) for at in np.flatnonzero(changes)]
            for source in sources:
                self.rows.add(int(paths.layers[node]), [*parts, ([depths[source]], -1.0)], math.inf)
            if not sources:
                self.rows.add(int(paths.layers[node]), parts, math.inf)
        return len(depths)

    def _new(self, count: int) -> Integers:
        self.count += count
        return np.arange(self.count - count, self.count)

    def _linear(self, parts: Iterable[tuple[Integers, Floats]], constant: float) -> Linear:
        coefficients = np.zeros(self.count)
        for columns, values in parts:
            np.add.at(coefficients, columns.reshape(-1), values.reshape(-1))
        return Linear(coefficients, constant)

    def _choose(self) -> None:
        problem = self.problem
        for dim in problem.dims:
            able = self.options[sorted(problem.absorbers[dim.name])]
            self.rows.add(1, [(self.picks[dim.name], 1), (able, 1)], 1)
        for clique in problem.cliques:
            self.rows.add(0, [(self.options[sorted(clique)], 1)], 1)

    def _scope(self, at: int, scope: Scope) -> tuple[list[tuple[Integers, Floats]], float]:
        """The time of a scope: what columns cost, and what it costs at least."""
        problem, active = self.problem, self._active(scope)
        views = {name: self._view(scope, name, active) for name in scope.dims}
        parts: list[tuple[Integers, Floats]] = []
        least = 0.0
        for number, table in enumerate(scope.tables):
            if len(table.dims) == 1:
                parts.append((views[table.dims[0]], table.values))
                continue
            columns = self._new(table.values.size).reshape(table.values.shape)
            self.pairs[at, number] = columns
            parts.append((columns, table.values))
            for name, lines in zip(table.dims, (columns, columns.T), strict=True):
                for pick, line in zip(views[name], lines, strict=True):
                    self.rows.add(0, [(line, 1), ([pick], -1)], 0)
        for term in scope.terms:
            name, rest = term.dims[0], set(term.dims[1:])
            widths = {each: problem.candidates[each] for each in term.dims}
            if rest <= {name}:
                powers = np.array(widths[name], np.float64) ** len(term.dims)
                parts.append((views[name], term.coefficient * powers))
            else:
                least += term.coefficient * math.prod(widths[each][-1] for each in term.dims)
        if scope is problem.scopes[0]:
            return parts, least
        (columns, value, offset), least = active, least + scope.constant
        return [*parts, (columns, np.full(len(columns), value * least))], offset * least

    def _active(self, scope: Scope) -> tuple[Integers, float, float]:
        """Whether a scope counts: columns, their coefficient, and a constant."""
        if scope.adder is not None:
            return self.options[[scope.adder]], 1.0, 0.0
        return self.options[sorted(scope.removers)], -1.0, 1.0

    def _view(self, scope: Scope, name: str, active: tuple[Integers, float, float]) -> Integers:
        """The levels of a dim as a scope sees them (see ``CpModel``)."""
        own = self.picks[name]
        if scope.adder is None and not scope.removers - self.problem.absorbers[name]:
            return own
        seen = self._new(len(own))
        for column, pick in zip(seen, own, strict=True):
            self.rows.add(-math.inf, [([column], 1), ([pick], -1)], 0)
        columns, value, offset = active
        self.rows.add(offset, [(seen, 1), (columns, -value)], offset)
        return seen

    def damage(self, prices: Prices) -> Linear:
        """The damage by ``prices``."""
        columns = zip(self.picks.values(), prices.dims, strict=True)
        parts = [(picks, np.array(alone, np.float64)) for picks, alone in columns]
        return self._linear([*parts, (self.options, np.array(prices.options, np.float64))], prices.constant)

    def kept(self, relaxed: Relaxed, slack: float, start: Choice) -> Kept:
        """The candidates that can be in a choice less than ``slack`` above the bound, and those of
        ``start``."""
        problem, cheap = self.problem, relaxed.costs <= slack
        levels, chosen = problem.levels(start), {problem.position[name] for name in start.options}
        at = dict(zip(self.picks, levels, strict=True))
        kept: list[frozenset[int]] = []
        for name, picks in self.picks.items():
            always = int(relaxed.costs[picks].argmin()) if chosen & problem.absorbers[name] else at[name]
            kept.append(frozenset({always, *np.flatnonzero(cheap[picks]).tolist()}))
        pairs: dict[tuple[int, int], Booleans] = {}
        for key, columns in self.pairs.items():
            pairs[key] = cheap[columns]
            table = problem.scopes[key[0]].tables[key[1]]
            pairs[key][tuple(at[name] for name in table.dims)] = True
        return Kept(tuple(kept), frozenset(chosen.union(np.flatnonzero(cheap[self.options]).tolist())), pairs)

    def nearest(self, relaxed: Relaxed) -> Choice:
        """The levels and options that most of the solution is made of; it may not keep the limits."""
        levels = [int(relaxed.values[picks].argmax()) for picks in self.picks.values()]
        taken = np.flatnonzero(relaxed.values[self.options] > 0.5 + _HALF)
        return self.problem.choice(levels, [self.problem.options[at].name for at in taken])

    def hold_cuts(self, cuts: Sequence[Cut]) -> None:
        """Keep the damage by each of ``cuts`` within its limit."""
        for prices, limit in cuts:
            if limit < math.inf:
                self.hold(self.damage(prices), raised(limit, TOLERANCE))

    def hold(self, form: Linear, limit: float) -> int | None:
        """Add ``form ≤ limit``; the row's number, None where it says nothing."""
        columns = np.flatnonzero(form.coefficients)
        scale = float(np.abs(form.coefficients).max(initial=0.0))
        if scale <= _NOTHING or not math.isfinite(high := (limit - form.constant) / scale):
            return None
        values = form.coefficients[columns] / scale
        self.rows.insert(-math.inf, columns, values, high)
        if self.solver is not None:
            self.solver.add(columns, values, high)
        return len(self.rows.high) - 1

    def release(self, row: int | None) -> None:
        """Take back what ``hold`` added."""
        if row is None:
            return
        self.rows.high[row] = math.inf
        if self.solver is not None:
            self.solver.release(row)

    def minimize(self, form: Linear) -> Relaxed | None:
        """The relaxation's solution; None when GLOP finds none."""
        if self.solver is None:
            self.solver = _Solver(self.rows, self.upper, self.main)
        scale = max(float(np.abs(form.coefficients).max(initial=0.0)), sys.float_info.min)
        found = self.solver.minimize(form.coefficients / scale)
        if found is None:
            return None
        values, bound, costs = found
        return Relaxed(form.constant + scale * bound, values, scale * costs)


class _Solver:
    """GLOP with the rows of a relaxation; it starts from the solution of the objective before. ``main``: of
    so many columns, the first ones, the values are asked for (nothing is slower to get)."""

    def __init__(self, rows: _Rows, upper: Floats, main: int) -> None:
        self.rows, self.upper, self.main = rows, upper, main
        self._flatten()
        model = MPModelProto()
        for most in upper.tolist():
            model.variable.add(lower_bound=0.0, upper_bound=most)
        for low, columns, coefficients, high in zip(
            rows.low, rows.columns, rows.coefficients, rows.high, strict=True
        ):
            model.constraint.add(
                lower_bound=low,
                upper_bound=high,
                var_index=columns.tolist(),
                coefficient=coefficients.tolist(),
            )
        glop: Any = Solver  # its stubs leave arguments and results without a type
        self.solver = glop.CreateSolver("GLOP")
        if said := self.solver.LoadModelFromProto(model):
            raise RuntimeError(f"the relaxation's program is wrong: {said}")
        self.variables, self.constraints = self.solver.variables(), self.solver.constraints()
        if len(self.constraints) != len(rows.low):
            raise RuntimeError("the relaxation's program lost a row that says nothing")
        self.objective = np.zeros(len(upper))
        parameters: Any = MPSolverParameters
        self.parameters = parameters()
        # a presolved program would not start from the solution before
        self.parameters.SetIntegerParam(parameters.PRESOLVE, parameters.PRESOLVE_OFF)

    def _flatten(self) -> None:
        """The rows as flat arrays."""
        rows = self.rows
        self.columns = np.concatenate([np.zeros(0, np.int64), *rows.columns])
        self.coefficients = np.concatenate([np.zeros(0), *rows.coefficients])
        lengths = np.array([len(each) for each in rows.columns], np.int64)
        self.row = np.repeat(np.arange(len(lengths)), lengths)
        self.low, self.high = np.array(rows.low), np.array(rows.high)

    def add(self, columns: Integers, coefficients: Floats, high: float) -> None:
        """The row that was added to the rows."""
        row = self.solver.Constraint(-self.solver.infinity(), high)
        for column, value in zip(columns.tolist(), coefficients.tolist(), strict=True):
            row.SetCoefficient(self.variables[column], value)
        self.constraints = self.solver.constraints()
        self._flatten()

    def release(self, row: int) -> None:
        """Let a row be anything."""
        self.constraints[row].SetUb(self.solver.infinity())
        self._flatten()

    def minimize(self, objective: Floats) -> tuple[Floats, float, Floats] | None:
        """The values of the columns, a bound, and the reduced costs; None when there is no solution."""
        form = self.solver.Objective()
        for column in np.flatnonzero(objective != self.objective).tolist():
            form.SetCoefficient(self.variables[column], float(objective[column]))
        self.objective = objective
        outcome = self.solver.Solve(self.parameters)
        if outcome != self.solver.OPTIMAL:
            return None
        values = np.array([variable.solution_value() for variable in self.variables[: self.main]], np.float64)
        duals = np.array([constraint.dual_value() for constraint in self.constraints], np.float64)
        return values, *self.proved(objective, duals)

    def proved(self, objective: Floats, duals: Floats) -> tuple[float, Floats]:
        """The bound that ``duals`` prove, less what rounding may have added, and the reduced costs."""
        sides = np.where(duals > 0, self.low, self.high)
        duals = np.where(np.isfinite(sides), duals, 0.0)
        shares = duals * np.where(np.isfinite(sides), sides, 0.0)
        products = self.coefficients * duals[self.row]
        costs = objective - np.bincount(self.columns, products, len(objective))
        below = np.minimum(costs, 0.0) * self.upper
        sizes = np.abs(shares).sum() + np.abs(below).sum() + np.abs(products * self.upper[self.columns]).sum()
        return float(shares.sum() + below.sum() - _MARGIN * sizes), np.maximum(costs, 0.0)
