"""``Option``: something else that may be done to a part of the network, such as the collapse of a span."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from otgraph.allocate.cost import Term, TimeTerm


@dataclass(frozen=True)
class Option:
    """A replacement of some nodes by others, all of it or none: a collapse, a linearization, a merge.

    When it is chosen it does ``damage``, the nodes in ``removes`` take no time any more, those in ``adds``
    do, and the dims in ``absorbs``, whose nodes all disappear, do no damage whatever their width.

    Two options exclude each other when they remove a node in common, absorb a dim in common, or one's new
    nodes read a dim that the other absorbs.
    """

    name: str
    damage: float
    removes: frozenset[str]
    adds: tuple[TimeTerm, ...] = ()
    absorbs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damage) and self.damage >= 0):
            raise ValueError(f"{self.name}: a damage must be finite and not negative")
        if not self.removes:
            raise ValueError(f"{self.name}: removes no node; an option takes the place of at least one")
        both = sorted(self.absorbs & self.reads)
        if both:
            raise ValueError(f"{self.name}: its new nodes read {both[0]}, which it absorbs")

    @cached_property
    def reads(self) -> frozenset[str]:
        """The dims that the new nodes' times depend on."""
        return frozenset[str]().union(*(node.dims for node in self.adds))

    def excludes(self, other: Option) -> bool:
        """Whether at most one of the two can be chosen."""
        return bool(
            self.removes & other.removes
            or self.absorbs & (other.absorbs | other.reads)
            or self.reads & other.absorbs
        )


def absorbed_by(
    removes: Iterable[str], nodes: Iterable[TimeTerm], terms: Iterable[Term] = ()
) -> frozenset[str]:
    """The dims that nothing reads once the nodes in ``removes`` are gone: what an option may absorb."""
    gone, kept = set(removes), {name for term in terms for name in term.dims}
    read = frozenset[str]()
    for node in nodes:
        if node.node in gone:
            read |= node.dims
        else:
            kept |= node.dims
    return read - kept
