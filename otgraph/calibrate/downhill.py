"""The best of a few ordered settings, without looking at all of them."""

from __future__ import annotations

from collections.abc import Callable


def downhill(score: Callable[[int], float], first: int, count: int) -> int:
    """Of the settings 0 to ``count`` − 1 the one with the smallest ``score`` as far as neighbors show it.

    From ``first`` on, neighbors are tried as long as they are better: the minimum where there is but one
    valley, as there is along the ridges of a regression. No setting is scored twice.
    """
    known: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in known:
            known[index] = score(index)
        return known[index]

    best = first
    step = 1 if first + 1 < count and at(first + 1) < at(first) else -1
    while 0 <= best + step < count and at(best + step) < at(best):
        best += step
    return best
