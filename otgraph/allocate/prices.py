"""``Prices``: a damage that is a plain sum, which the integer programs know how to minimize."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """A number per dim and level, in the order of the problem's dims, one per option in its order, and a
    ``constant``; any sign. The damage of a choice is the sum over the dims that no option absorbs and over
    the options that it takes.

    Either the damages of the candidates themselves, or a tangent of a damage that is more than a sum.
    """

    dims: tuple[tuple[float, ...], ...]
    options: tuple[float, ...]
    constant: float = 0.0


Cut = tuple[Prices, float]
"""A damage that is a plain sum, and its limit."""
