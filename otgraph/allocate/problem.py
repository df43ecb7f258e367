"""``Problem``: dims with candidate widths, options, the damage each does, and what it all costs together."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import Polynomial, TimeTerm
from otgraph.allocate.interaction import Effects, Interaction, Key, title
from otgraph.allocate.layers import LayerGraph, Paths
from otgraph.allocate.option import Option
from otgraph.allocate.prices import Prices
from otgraph.allocate.scope import Scope, scopes_of

Levels = tuple[int, ...]
"""One candidate per dim, as positions in the dims' ``widths``."""

TOLERANCE = 1e-6
"""The fraction by which a limit may be exceeded, for rounding; far below what can be measured."""

_SCALED = 1e-4
"""By this much of a damage its vector may be off: vectors come from arithmetic in float32."""


def raised(limit: float, fraction: float) -> float:
    """``limit`` and ``fraction`` of its size more."""
    return limit + fraction * abs(limit)


@dataclass(frozen=True)
class Caps:
    """What a choice may take at most: ``time``, in the problem's unit, and ``layers`` on the longest path,
    None for any number."""

    time: float = math.inf
    layers: int | None = None


@dataclass(frozen=True)
class DimOptions:
    """What a dim can be: its candidate ``widths``, descending, the full one first, and the damage of each."""

    name: str
    widths: tuple[int, ...]
    damages: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.damages):
            raise ValueError(f"{self.name}: needs one damage per candidate width and at least one")
        if any(a <= b for a, b in zip(self.widths, self.widths[1:], strict=False)) or self.widths[-1] < 1:
            raise ValueError(f"{self.name}: candidate widths must be positive and descend")
        if not all(math.isfinite(damage) and damage >= 0 for damage in self.damages):
            raise ValueError(f"{self.name}: a damage must be finite and not negative")


@dataclass(frozen=True)
class Problem:
    """What to allocate: a width for every dim, and any options that do not exclude each other.

    Time is ``constant``, the sum of ``terms``, what the ``nodes`` take that no chosen option removes, and
    what chosen options add, in any unit; no part but the constant is negative. A node may have no time;
    options that remove it still exclude each other. Damage is the sum over the dims that no chosen option
    absorbs and over the chosen options, and what these do to each other by ``interaction``; vectors of other
    candidates than the problem's are not looked at. ``layers``: the paths through the network, for a budget
    of layers.
    """

    dims: tuple[DimOptions, ...]
    nodes: tuple[TimeTerm, ...] = ()
    options: tuple[Option, ...] = ()
    constant: float = 0.0
    terms: Polynomial = ()
    interaction: Interaction | None = None
    layers: LayerGraph | None = None

    def __post_init__(self) -> None:
        _all_differ("dim", [dim.name for dim in self.dims])
        _all_differ("node", [node.node for node in self.nodes])
        _all_differ("option", [option.name for option in self.options])
        for node in (self._base, *self.nodes, *(node for option in self.options for node in option.adds)):
            self._check(node)
        present = {node.node for node in self.nodes}
        for option in self.options:
            if missing := sorted(option.removes - present):
                raise ValueError(f"{option.name}: removes {missing[0]}, which is not among the nodes")
            if missing := sorted(option.absorbs - self.candidates.keys()):
                raise ValueError(f"{option.name}: absorbs {missing[0]}, which has no candidates")
            for node in (self._base, *self.nodes):
                if node.node not in option.removes and (read := sorted(node.dims & option.absorbs)):
                    where = "a term of the problem" if node is self._base else node.node
                    raise ValueError(f"{option.name}: absorbs {read[0]}, which {where} still reads")
        for key, damage in self.damages.items():
            self._check_vector(key, damage)

    def _check(self, node: TimeTerm) -> None:
        if missing := sorted(node.dims - self.candidates.keys()):
            raise ValueError(f"the time of {node.node} names a dim that has no candidates: {missing[0]}")
        for term in node.terms:
            if not (math.isfinite(term.coefficient) and term.coefficient >= 0):
                raise ValueError(f"the term {term} must have a finite coefficient that is not negative")
        if node.table is not None:
            wanted = itertools.product(*(self.candidates[name] for name in node.table.dims))
            for widths in wanted:
                if widths not in node.table.values:
                    raise ValueError(f"{node.node}: its table over {node.table.dims} lacks {widths}")

    def _check_vector(self, key: Key, damage: float) -> None:
        """A damage is not negative, and convex, as long as no vector does more than the candidate alone."""
        vector = None if self.interaction is None else self.interaction.vectors.get(key)
        alone = 0.0 if vector is None else float(vector @ vector)
        if alone > damage * (1 + _SCALED) + sys.float_info.min:
            raise ValueError(
                f"{title(key)}: its vector does {alone:.4g}, more than its damage alone, {damage:.4g};"
                " scale the interaction to the damages"
            )

    @cached_property
    def _base(self) -> TimeTerm:
        return TimeTerm("the problem", self.terms)

    @cached_property
    def candidates(self) -> Mapping[str, tuple[int, ...]]:
        """The candidate widths by dim."""
        return {dim.name: dim.widths for dim in self.dims}

    def full(self) -> Choice:
        """Every dim at its full width."""
        return self.choice((0,) * len(self.dims))

    def least(self) -> Choice:
        """Every dim at its least width: the least time, unless there are tables or options."""
        return self.choice(tuple(len(dim.widths) - 1 for dim in self.dims))

    def choice(self, levels: Sequence[int], options: Collection[str] = ()) -> Choice:
        """The widths at ``levels``, those of dims that one of ``options`` absorbs full; the options in the
        problem's order."""
        chosen = self.chosen(options)
        absorbed = _absorbed(chosen)
        pairs = zip(self.dims, levels, strict=True)
        widths = {dim.name: dim.widths[0 if dim.name in absorbed else level] for dim, level in pairs}
        return Choice(widths, tuple(option.name for option in chosen))

    def levels(self, choice: Choice) -> Levels:
        """The widths of ``choice`` as positions among the candidates."""
        widths = self._widths(choice)
        for dim in self.dims:
            if widths[dim.name] not in dim.widths:
                raise ValueError(f"{dim.name}: {widths[dim.name]} is not among its candidate widths")
        return tuple(dim.widths.index(widths[dim.name]) for dim in self.dims)

    def time(self, choice: Choice) -> float:
        """The time of ``choice``, whose widths may be others than candidates where there is no table."""
        chosen, widths = self.chosen(choice.options), self._widths(choice)
        gone = frozenset[str]().union(*(option.removes for option in chosen))
        nodes = [node for node in self.nodes if node.node not in gone]
        nodes += [node for option in chosen for node in option.adds]
        return self.constant + sum(node.at(widths) for node in (self._base, *nodes))

    def damage(self, choice: Choice) -> float:
        """The damage of ``choice``: ``Σ d_c``, and ``weight · (|Σ v_c|² − Σ |v_c|²)`` of an interaction."""
        alone = self.priced(choice, self.prices)
        if self.interaction is None:
            return alone
        return max(alone + self.interaction.together(self.parts(choice)), 0.0)

    def within(self, choice: Choice, caps: Caps) -> bool:
        """Whether ``choice`` takes no more than ``caps``, within the tolerance."""
        short = caps.layers is None or self.longest(choice) <= caps.layers
        return short and self.time(choice) <= raised(caps.time, TOLERANCE)

    def longest(self, choice: Choice) -> int:
        """The layers on the longest path."""
        chosen = np.zeros((1, len(self.options)), np.bool_)
        chosen[0, [self.position[name] for name in choice.options]] = True
        return int(self.paths.longest(chosen)[0])

    def priced(self, choice: Choice, prices: Prices) -> float:
        """The damage of ``choice`` as ``prices`` have it."""
        chosen = self.chosen(choice.options)
        absorbed, columns = _absorbed(chosen), zip(self.dims, self.levels(choice), prices.dims, strict=True)
        parts = [alone[level] for dim, level, alone in columns if dim.name not in absorbed]
        taken = [prices.options[self.position[option.name]] for option in chosen]
        return sum(parts) + sum(taken) + prices.constant

    def parts(self, choice: Choice) -> list[Key]:
        """The candidates that ``choice`` is made of: dims that are not absorbed at their widths, options."""
        chosen, widths = self.chosen(choice.options), self._widths(choice)
        absorbed = _absorbed(chosen)
        kept: list[Key] = [(name, k) for name, k in widths.items() if name not in absorbed]
        return [*kept, *(option.name for option in chosen)]

    @cached_property
    def prices(self) -> Prices:
        """What each candidate does alone."""
        return Prices(
            tuple(dim.damages for dim in self.dims), tuple(option.damage for option in self.options)
        )

    @cached_property
    def paths(self) -> Paths:
        """The paths through the network, as far as options tell them apart."""
        if self.layers is None:
            raise ValueError("the problem does not say how its nodes read each other")
        return Paths.of(self.layers, self.options)

    @cached_property
    def effects(self) -> Effects | None:
        """The interaction as arrays; None when it has no say."""
        if self.interaction is None or not self.interaction.weight or not self.interaction.samples:
            return None
        widths = [(dim.name, dim.widths) for dim in self.dims]
        return Effects(self.interaction, widths, [option.name for option in self.options])

    @cached_property
    def damages(self) -> Mapping[Key, float]:
        """What each candidate does alone, by name."""
        found: dict[Key, float] = {option.name: option.damage for option in self.options}
        for dim in self.dims:
            pairs = zip(dim.widths, dim.damages, strict=True)
            found |= {(dim.name, width): damage for width, damage in pairs}
        return found

    def _widths(self, choice: Choice) -> dict[str, int]:
        """The widths of all dims."""
        if unknown := sorted(choice.widths.keys() - self.candidates.keys()):
            raise ValueError(f"{unknown[0]}: no dim of the problem")
        return {dim.name: choice.widths.get(dim.name, dim.widths[0]) for dim in self.dims}

    def chosen(self, options: Collection[str]) -> tuple[Option, ...]:
        """The options named, in the problem's order."""
        if unknown := sorted(set(options) - self.position.keys()):
            raise ValueError(f"{unknown[0]}: no option of the problem")
        chosen = sorted(self.position[name] for name in set(options))
        for one, other in itertools.combinations(chosen, 2):
            if other in self.exclusions[one]:
                both = f"{self.options[one].name} and {self.options[other].name}"
                raise ValueError(f"{both} exclude each other")
        return tuple(self.options[at] for at in chosen)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Where each option stands in the problem's order."""
        return {option.name: at for at, option in enumerate(self.options)}

    @property
    def plain(self) -> bool:
        """Whether there are only widths to choose, and every step down saves time or costs none."""
        return not self.options and all(node.table is None for node in self.nodes)

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """The times by what makes them count, those that always do first."""
        return scopes_of(self.nodes, self.options, self._base, self.candidates)

    @cached_property
    def fixed(self) -> float:
        """The part of the time that nothing can change."""
        return self.constant + self.scopes[0].constant

    @cached_property
    def exclusions(self) -> tuple[frozenset[int], ...]:
        """By option, the positions of those that it excludes."""
        found: list[set[int]] = [set() for _ in self.options]
        for (i, one), (j, other) in itertools.combinations(enumerate(self.options), 2):
            if one.excludes(other):
                found[i].add(j)
                found[j].add(i)
        return tuple(map(frozenset, found))

    @cached_property
    def cliques(self) -> tuple[frozenset[int], ...]:
        """Sets of options, by position, that exclude each other, which together say all exclusions: those
        that remove a node or absorb a dim in common, and pairs."""
        sets = [frozenset(at for at, o in enumerate(self.options) if n.node in o.removes) for n in self.nodes]
        sets += self.absorbers.values()
        found: list[frozenset[int]] = []
        for each in sorted({each for each in sets if len(each) > 1}, key=lambda each: (-len(each), *each)):
            if not any(each <= other for other in found):
                found.append(each)
        said = {pair for each in found for pair in itertools.combinations(sorted(each), 2)}
        pairs = {
            (one, other) for one, others in enumerate(self.exclusions) for other in others if one < other
        }
        return (*found, *(frozenset(pair) for pair in sorted(pairs - said)))

    @cached_property
    def absorbers(self) -> Mapping[str, frozenset[int]]:
        """The options, by position, that absorb each dim; at most one of them can be chosen."""
        return {
            name: frozenset(at for at, option in enumerate(self.options) if name in option.absorbs)
            for name in self.candidates
        }


def _absorbed(options: Collection[Option]) -> frozenset[str]:
    return frozenset[str]().union(*(option.absorbs for option in options))


def _all_differ(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"a {kind} is named twice: {twice}")
