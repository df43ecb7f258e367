"""Candidate widths of a dim: what an engine runs well, thinned out so that the allocation stays small."""

from __future__ import annotations

import math


def candidate_widths(
    size: int, multiple: int = 8, minimum: int = 1, limit: int = 16, groups: int = 1
) -> tuple[int, ...]:
    """Widths to choose from for a dim of ``size`` channels, descending, starting with the full width.

    Below the full width they are multiples of ``multiple`` (what the engine likes) and of ``groups`` (a
    grouped operator divides its channels evenly), and at least ``minimum``, so a dim of 20 with ``multiple``
    8 gives (20, 16, 8). When there are more than ``limit``, they are thinned out to even steps over the
    whole range: mild budgets, the common ones, are decided near the full width, where equal ratios would
    leave wide gaps.

    Raises:
        ValueError: a number is less than one.
    """
    if min(size, multiple, minimum, limit, groups) < 1:
        raise ValueError("size, multiple, minimum, limit and groups are at least 1")
    step = math.lcm(multiple, groups)
    lowest = step * math.ceil(minimum / step)
    return _thin([size, *reversed(range(lowest, size, step))], limit)


def _thin(widths: list[int], limit: int) -> tuple[int, ...]:
    """At most ``limit`` of ``widths``, evenly by position, both ends among them (the first when only one
    may stay)."""
    if len(widths) <= limit:
        return tuple(widths)
    stride = (len(widths) - 1) / max(limit - 1, 1)
    return tuple(widths[round(k * stride)] for k in range(limit))
