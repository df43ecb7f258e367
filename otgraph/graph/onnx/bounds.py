"""How large one value of a model may be: more is refused before it is allocated."""

from __future__ import annotations

LARGEST_VALUE = 2**32
"""Bytes of one input or intermediate value of the example."""
LARGEST_CONSTANT = 2**31 - 2**24
"""Bytes of one value that hangs on no input: what is made of constants is one, and a file holds no more."""
LARGE_CONSTANT = 2**28
"""Bytes from which a constant that the model computes is said."""


def in_words(count: int) -> str:
    """``count`` bytes with a unit: ``1.5 GB``."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.3g} {unit}"
    return f"{count} bytes"
