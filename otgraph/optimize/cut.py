"""``Cut``: one candidate of the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from otgraph.allocate.allocation import Allocation


@dataclass(frozen=True)
class Cut:
    """How wide each dim stays (those not named whole), and which spans collapse, by the collapses' names."""

    widths: Mapping[str, int]
    collapses: tuple[str, ...] = ()

    @staticmethod
    def of(allocation: Allocation) -> Cut:
        """What ``allocation`` chose."""
        return Cut(allocation.widths, allocation.options)

    def key(self, sizes: Mapping[str, int]) -> str:
        """The cut as text, the same for equal cuts; ``sizes``: the full widths."""
        narrow = [f"{name}:{k}" for name, k in sorted(self.widths.items()) if k < sizes[name]]
        return " ".join([*narrow, *(f"-{name}" for name in sorted(self.collapses))])
