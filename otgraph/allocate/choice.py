"""``Choice``: what is done to a network, all of it: how wide each dim stays, and which options are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Choice:
    """How wide each dim stays, in channels (those not named whole), and which options are taken, by name.

    The one type for this from the allocation over trials to the plan. Two choices that do the same may name
    different dims or options in another order; ``key`` is the same for them.
    """

    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    options: tuple[str, ...] = ()

    def key(self, sizes: Mapping[str, int]) -> str:
        """The choice as text, the same for equal ones; ``sizes``: the full widths."""
        narrow = [f"{name}:{k}" for name, k in sorted(self.widths.items()) if k < sizes[name]]
        return " ".join([*narrow, *(f"-{name}" for name in sorted(self.options))])
