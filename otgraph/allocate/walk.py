"""``Walk``: a choice of a problem that moves one dim or one option at a time, all moves priced at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import Problem
from otgraph.allocate.scope import Table

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Walk:
    """A choice with the time and damage after every possible move, in two tables: one for moves of a dim to a
    level, shape (dims, levels), one for taking an option or giving it up, shape (options,).

    Taking an option gives up those it excludes. A dim that is absorbed keeps its level for when it is not.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count, most = len(problem.dims), max((len(c.widths) for c in problem.dims), default=1)
        self.widths = np.ones((count, most))
        self.damages = np.full((count, most), np.inf)
        for i, dim in enumerate(problem.dims):
            self.widths[i, : len(dim.widths)] = dim.widths
            self.damages[i, : len(dim.damages)] = dim.damages
        self.rows = np.arange(count)
        self.column = {dim.name: i for i, dim in enumerate(problem.dims)}
        self.at = np.array([int(np.argmin(c.damages)) for c in problem.dims], np.int64)
        self._options()
        self._terms()
        self._tables(most)
        self._choose(np.zeros(len(problem.options), np.bool_))
        self._stand()

    def _options(self) -> None:
        options, scopes = self.problem.options, self.problem.scopes
        self.constants = np.array([scope.constant for scope in scopes], np.float64)
        self.harms = np.array([option.damage for option in options], np.float64)
        self.excludes = np.zeros((len(options), len(options)), np.bool_)
        for at, others in enumerate(self.problem.exclusions):
            self.excludes[at, sorted(others)] = True
        self.absorbs = np.zeros((len(options), len(self.rows)), np.bool_)
        for at, option in enumerate(options):
            self.absorbs[at, [self.column[name] for name in option.absorbs]] = True
        self.removes = np.zeros((len(options), len(scopes)), np.bool_)
        self.adder = np.array([-1 if s.adder is None else s.adder for s in scopes], np.int64)
        for column, scope in enumerate(scopes):
            self.removes[sorted(scope.removers), column] = True

    def _terms(self) -> None:
        pairs = [(at, term) for at, scope in enumerate(self.problem.scopes) for term in scope.terms]
        self.coefficients = np.array([term.coefficient for _, term in pairs], np.float64)
        self.term_scope = np.array([at for at, _ in pairs], np.int64)
        self.exponents = np.zeros((len(pairs), len(self.rows)), np.int64)
        for row, (_, term) in enumerate(pairs):
            for name in term.dims:
                self.exponents[row, self.column[name]] += 1
        powers = range(1, int(self.exponents.max(initial=0)) + 1)
        self.members = [(power, (self.exponents == power).astype(np.float64)) for power in powers]

    def _tables(self, most: int) -> None:
        """All tables as values of shape (tables, levels, levels). A table over one dim has as its second one
        a column past the dims', whose level is always 0."""
        pairs = [(at, table) for at, scope in enumerate(self.problem.scopes) for table in scope.tables]
        self.table_scope = np.array([at for at, _ in pairs], np.int64)
        self.table_dims = np.full((len(pairs), 2), len(self.rows), np.int64)
        self.values = np.zeros((len(pairs), most, most))
        for row, (_, table) in enumerate(pairs):
            self.table_dims[row, : len(table.dims)] = [self.column[name] for name in table.dims]
            values = _plane(table)
            self.values[row, : values.shape[0], : values.shape[1]] = values

    def _stand(self) -> None:
        """What all moves from here have in common: term values, table lines, and totals per scope."""
        now = self.widths[self.rows, self.at]
        self.term_values = self.coefficients * np.exp(self.exponents @ np.log(now))
        tables = np.arange(len(self.values))
        first, second = np.append(self.at, 0)[self.table_dims].T
        self.along = self.values[tables, :, second], self.values[tables, first]
        self.table_values = self.values[tables, first, second]
        self.totals = self.constants.copy()
        np.add.at(self.totals, self.term_scope, self.term_values)
        np.add.at(self.totals, self.table_scope, self.table_values)

    def _choose(self, chosen: Booleans) -> None:
        """Change the chosen options, and with them what every move of an option leads to."""
        own = np.eye(len(chosen), dtype=np.bool_)
        self.chosen = chosen
        self.active = self._active(chosen[None])[0]
        self.absorbed = chosen @ self.absorbs
        self.moved = np.where(chosen[:, None], chosen & ~own, (chosen & ~self.excludes) | own)
        self.active_moved = self._active(self.moved)
        self.absorbed_moved = self.moved @ self.absorbs

    def _active(self, chosen: Booleans) -> Booleans:
        """Which scopes count, shape (batch, scopes)."""
        added = np.concatenate([chosen, np.ones((len(chosen), 1), np.bool_)], axis=1)[:, self.adder]
        return added & ~(chosen @ self.removes)

    def choice(self) -> Choice:
        """Where the walk stands."""
        taken = zip(self.problem.options, self.chosen, strict=True)
        return self.problem.choice(self.at.tolist(), [option.name for option, is_taken in taken if is_taken])

    @property
    def time(self) -> float:
        """The time where the walk stands."""
        return self.problem.constant + float(self.active @ self.totals)

    @property
    def damage(self) -> float:
        """The damage where the walk stands."""
        here = self.damages[self.rows, self.at]
        return float(here[~self.absorbed].sum() + self.harms[self.chosen].sum())

    def saved_by_dims(self) -> Floats:
        """The time saved by each move of a dim, shape (dims, levels)."""
        saved = np.zeros((len(self.rows) + 1, self.widths.shape[1]))
        ratio = self.widths / self.widths[self.rows, self.at][:, None]
        values = self.term_values * self.active[self.term_scope]
        for power, member in self.members:
            saved[:-1] += (values @ member)[:, None] * (1 - ratio**power)
        counts = self.active[self.table_scope]
        for side, lines in enumerate(self.along):
            change = self.table_values[counts, None] - lines[counts]
            np.add.at(saved, self.table_dims[counts, side], change)
        saved[:-1][self.absorbed] = 0.0
        return saved[:-1]

    def harm_of_dims(self) -> Floats:
        """The damage added by each move of a dim, shape (dims, levels); infinite for levels it has not."""
        harms = self.damages - self.damages[self.rows, self.at][:, None]
        harms[self.absorbed] = np.inf
        return harms

    def saved_by_options(self) -> Floats:
        """The time saved by each move of an option, shape (options,)."""
        return (self.active.astype(np.float64) - self.active_moved) @ self.totals

    def harm_of_options(self) -> Floats:
        """The damage added by each move of an option, shape (options,)."""
        here = self.damages[self.rows, self.at]
        change = self.absorbed.astype(np.float64) - self.absorbed_moved
        return change @ here + (self.moved.astype(np.float64) - self.chosen) @ self.harms

    def move_dim(self, row: int, level: int) -> None:
        """Set one dim to a level."""
        self.at[row] = level
        self._stand()

    def move_option(self, index: int) -> None:
        """Take an option, or give it up if it is taken."""
        self._choose(self.moved[index])


def _plane(table: Table) -> Floats:
    return table.values[:, None] if table.values.ndim == 1 else table.values
