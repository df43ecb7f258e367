"""``Problem``: dims with candidate widths, options, the damage each does, and what it all costs together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import NodeTime, Polynomial
from otgraph.allocate.interaction import Interaction, Key
from otgraph.allocate.layers import LayerGraph
from otgraph.allocate.option import Option
from otgraph.allocate.scope import Scope, scopes_of

Levels = tuple[int, ...]
"""One candidate per dim, as positions in the dims' ``widths``."""

TOLERANCE = 1e-6
"""The fraction by which a limit may be exceeded, for rounding; far below what can be measured."""


def raised(limit: float, fraction: float) -> float:
    """``limit`` and ``fraction`` of its size more."""
    return limit + fraction * abs(limit)


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
    what chosen options add, in any unit; no part but the constant is negative. Damage is the sum over the
    dims that no chosen option absorbs and over the chosen options, and what these do to each other by
    ``interaction``. A node may have no time; options that remove it still exclude each other. ``layers``: the
    paths through the network, for a budget of layers.
    """

    dims: tuple[DimOptions, ...]
    nodes: tuple[NodeTime, ...] = ()
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

    def _check(self, node: NodeTime) -> None:
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

    @cached_property
    def _base(self) -> NodeTime:
        return NodeTime("the problem", self.terms)

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
        chosen = self.chosen(choice.options)
        absorbed, pairs = _absorbed(chosen), zip(self.dims, self.levels(choice), strict=True)
        parts = [dim.damages[level] for dim, level in pairs if dim.name not in absorbed]
        alone = sum(parts) + sum(option.damage for option in chosen)
        if self.interaction is None:
            return alone
        return max(alone + self.interaction.together(self.parts(choice)), 0.0)

    def parts(self, choice: Choice) -> list[Key]:
        """The candidates that ``choice`` is made of: dims that are not absorbed at their widths, options."""
        chosen, widths = self.chosen(choice.options), self._widths(choice)
        absorbed = _absorbed(chosen)
        kept: list[Key] = [(name, k) for name, k in widths.items() if name not in absorbed]
        return [*kept, *(option.name for option in chosen)]

    def _widths(self, choice: Choice) -> dict[str, int]:
        """The widths of all dims."""
        if unknown := sorted(choice.widths.keys() - self.candidates.keys()):
            raise ValueError(f"{unknown[0]}: no dim of the problem")
        return {dim.name: choice.widths.get(dim.name, dim.widths[0]) for dim in self.dims}

    def chosen(self, options: Collection[str]) -> tuple[Option, ...]:
        """The options named, in the problem's order."""
        if unknown := sorted(set(options) - self._position.keys()):
            raise ValueError(f"{unknown[0]}: no option of the problem")
        chosen = sorted(self._position[name] for name in set(options))
        for one, other in itertools.combinations(chosen, 2):
            if other in self.exclusions[one]:
                both = f"{self.options[one].name} and {self.options[other].name}"
                raise ValueError(f"{both} exclude each other")
        return tuple(self.options[at] for at in chosen)

    @cached_property
    def _position(self) -> Mapping[str, int]:
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
    def absorbers(self) -> Mapping[str, frozenset[int]]:
        """The options, by position, that absorb each dim; at most one of them can be chosen."""
        return {
            name: frozenset(at for at, option in enumerate(self.options) if name in option.absorbs)
            for name in self.candidates
        }

    @cached_property
    def floors(self) -> tuple[float, ...]:
        """Per dim, the least damage that it does whatever is chosen."""
        return tuple(0.0 if self.absorbers[c.name] else min(c.damages) for c in self.dims)


def _absorbed(options: Collection[Option]) -> frozenset[str]:
    return frozenset[str]().union(*(option.absorbs for option in options))


def _all_differ(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"a {kind} is named twice: {twice}")
