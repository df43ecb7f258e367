"""``Walk``: a choice of a problem that moves one dim or one option at a time, all moves priced at once.

With an interaction the damage is that of ``Problem.damage``, exact for every move: where the vectors of all
parts but one add up to ``r``, a part with damage ``d`` and vector ``v`` does ``d + 2 · weight · r·v`` there.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.interaction import Effects
from otgraph.allocate.prices import Prices
from otgraph.allocate.problem import Problem
from otgraph.allocate.scope import Table

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Walk:
    """A choice with the time and damage after every possible move, in two tables: one for moves of a dim to a
    level, shape (dims, levels), one for taking an option or giving it up, shape (options,).

    Taking an option gives up those it excludes. A dim that is absorbed keeps its level for when it is not.
    Damages are by ``prices`` (left out: those of the candidates alone), and with ``effects``, the problem's,
    what they do together.
    """

    def __init__(
        self, problem: Problem, prices: Prices | None = None, effects: Effects | None = None
    ) -> None:
        self.problem, self.effects = problem, effects
        self.prices = problem.prices if prices is None else prices
        count, most = len(problem.dims), max((len(c.widths) for c in problem.dims), default=1)
        self.widths = np.ones((count, most))
        self.damages = np.full((count, most), np.inf)
        for i, dim in enumerate(problem.dims):
            self.widths[i, : len(dim.widths)] = dim.widths
            self.damages[i, : len(dim.damages)] = self.prices.dims[i]
        self.rows = np.arange(count)
        self.column = {dim.name: i for i, dim in enumerate(problem.dims)}
        self.at = np.argmin(self.damages, axis=1) if count else np.zeros(0, np.int64)
        self._options()
        self._terms()
        self._tables(most)
        self.held = np.zeros(len(problem.options), np.bool_)
        self._choose(np.zeros(len(problem.options), np.bool_))
        self._stand()

    def hold(self, options: Collection[int]) -> None:
        """Let no move change ``options``, and any move all others."""
        self.held = np.zeros(len(self.chosen), np.bool_)
        self.held[list(options)] = True

    def at_choice(self, choice: Choice) -> Walk:
        """The same walk, standing at ``choice``."""
        other = copy.copy(self)
        other.at = np.array(self.problem.levels(choice), np.int64)
        chosen = np.zeros(len(self.chosen), np.bool_)
        chosen[[self.problem.position[name] for name in choice.options]] = True
        other._choose(chosen)
        other._stand()
        return other

    def _options(self) -> None:
        options, scopes = self.problem.options, self.problem.scopes
        self.constants = np.array([scope.constant for scope in scopes], np.float64)
        self.harms = np.array(self.prices.options, np.float64)
        self.excludes = np.zeros((len(options), len(options)), np.bool_)
        for at, others in enumerate(self.problem.exclusions):
            self.excludes[at, sorted(others)] = True
        self.absorbs = np.zeros((len(options), len(self.rows)), np.float32)
        for at, option in enumerate(options):
            self.absorbs[at, [self.column[name] for name in option.absorbs]] = 1
        self.removes = np.zeros((len(options), len(scopes)), np.float32)
        self.adder = np.array([-1 if s.adder is None else s.adder for s in scopes], np.int64)
        for column, scope in enumerate(scopes):
            self.removes[sorted(scope.removers), column] = 1

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
        if self.effects is not None:
            self.vectors = self.effects.dims[self.rows, self.at]
            self.squares = self.effects.dim_squares[self.rows, self.at]

    def _choose(self, chosen: Booleans) -> None:
        """Change the chosen options, and with them what every move of an option leads to."""
        own = np.eye(len(chosen), dtype=np.bool_)
        self.chosen = chosen
        self.active = self._active(chosen[None])[0]
        self.absorbed = self._absorbed(chosen)
        self.moved = np.where(chosen[:, None], chosen & ~own, (chosen & ~self.excludes) | own)
        self.active_moved = self._active(self.moved)
        self.absorbed_moved = self._absorbed(self.moved)

    def _absorbed(self, chosen: Booleans) -> Booleans:
        """Which dims an option absorbs, shape (..., dims); products of floats, since those of Booleans are
        slow."""
        return (chosen.astype(np.float32) @ self.absorbs) > 0

    def _active(self, chosen: Booleans) -> Booleans:
        """Which scopes count, shape (batch, scopes)."""
        added = np.concatenate([chosen, np.ones((len(chosen), 1), np.bool_)], axis=1)[:, self.adder]
        return added & ((chosen.astype(np.float32) @ self.removes) == 0)

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
        alone = self.prices.constant + float(here[~self.absorbed].sum() + self.harms[self.chosen].sum())
        if self.effects is None:
            return alone
        squares = self.squares[~self.absorbed].sum() + self.effects.option_squares[self.chosen].sum()
        whole = self.sum(self.effects)
        return max(alone + self.effects.weight * float(whole @ whole - squares), 0.0)

    def sum(self, effects: Effects) -> Floats:
        """The sum of the vectors of all parts, shape (samples,)."""
        return self.vectors[~self.absorbed].sum(0) + effects.options[self.chosen].sum(0)

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
        if self.effects is not None:
            others = self.sum(self.effects) - self.vectors
            products = (self.effects.dims @ others[:, :, None])[:, :, 0]
            harms += 2 * self.effects.weight * (products - products[self.rows, self.at][:, None])
        harms[self.absorbed] = np.inf
        return harms

    def saved_by_options(self) -> Floats:
        """The time saved by each move of an option, shape (options,)."""
        return (self.active.astype(np.float64) - self.active_moved) @ self.totals

    def harm_of_options(self) -> Floats:
        """The damage added by each move of an option, shape (options,); infinite for those that would change
        one that is held."""
        here = self.damages[self.rows, self.at]
        change = self.absorbed.astype(np.float64) - self.absorbed_moved
        taken = self.moved.astype(np.float64) - self.chosen
        harms = change @ here + taken @ self.harms
        if self.effects is not None:
            steps = change @ self.vectors + taken @ self.effects.options
            squares = change @ self.squares + taken @ self.effects.option_squares
            together = 2 * steps @ self.sum(self.effects) + np.square(steps).sum(1) - squares
            harms += self.effects.weight * together
        harms[((self.moved != self.chosen) & self.held).any(1)] = np.inf
        return harms

    def layers(self) -> int:
        """The layers on the longest path where the walk stands."""
        return int(self.problem.paths.longest(self.chosen[None])[0])

    def layers_by_options(self) -> Integers:
        """The layers on the longest path after each move of an option, shape (options,)."""
        return self.problem.paths.longest(self.moved)

    def cross_saved(self) -> Floats:
        """The time that two moves of different dims save beyond what each saves, shape (moves, moves), a move
        being dim · levels + level."""
        count, most = self.widths.shape
        cross = np.zeros((count * most, count * most))

        def add(first: int, second: int, block: Floats) -> None:
            rows, columns = slice(first * most, (first + 1) * most), slice(second * most, (second + 1) * most)
            cross[rows, columns] -= block
            cross[columns, rows] -= block.T

        pairs = self.active[self.table_scope] & (self.table_dims[:, 1] < count)
        for table in np.flatnonzero(pairs):
            first, second = self.table_dims[table].tolist()
            values = self.values[table]
            row, column, here = self.along[1][table], self.along[0][table], self.table_values[table]
            add(first, second, values - row[None] - column[:, None] + here)
        ratio = self.widths / self.widths[self.rows, self.at][:, None]
        for term in np.flatnonzero(self.active[self.term_scope] & ((self.exponents > 0).sum(1) > 1)):
            powers = self.exponents[term]
            for first, second in itertools.combinations(np.flatnonzero(powers).tolist(), 2):
                steps = [ratio[dim] ** powers[dim] - 1 for dim in (first, second)]
                add(first, second, self.term_values[term] * np.outer(*steps))
        return cross

    def cross_harm(self) -> Floats | None:
        """The damage that two moves of different dims add beyond what each adds, shaped like ``cross_saved``;
        None when it is nothing."""
        if self.effects is None:
            return None
        count, most = self.widths.shape
        gram, own = self.effects.gram, self.rows * most + self.at
        steps = (gram.reshape(count, most, -1) - gram[own][:, None]).reshape(-1, count, most)
        steps = (steps - steps.reshape(len(gram), -1)[:, own][:, :, None]).reshape(gram.shape)
        steps *= 2 * self.effects.weight
        return steps

    def move_dim(self, row: int, level: int) -> None:
        """Set one dim to a level."""
        self.at = self.at.copy()
        self.at[row] = level
        self._stand()

    def move_option(self, index: int) -> None:
        """Take an option, or give it up if it is taken."""
        self._choose(self.moved[index])


def _plane(table: Table) -> Floats:
    return table.values[:, None] if table.values.ndim == 1 else table.values
