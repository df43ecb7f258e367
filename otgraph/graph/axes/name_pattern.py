"""Patterns of dim names: ``*`` is any text, ``?`` one character, and everything else is itself.

``fnmatch`` would take the brackets of a name such as ``conv[1]`` for a set of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_SPECIAL = {"*": ".*", "?": "."}


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the whole of ``name`` fits one of ``patterns``; upper and lower case differ."""
    return any(_compiled(pattern).fullmatch(name) is not None for pattern in patterns)


def allowed(name: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether ``name`` fits an ``include`` pattern, or there is none, and fits no ``exclude`` pattern."""
    wanted = tuple(include)
    return (not wanted or matches(name, wanted)) and not matches(name, exclude)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (_SPECIAL.get(character) or re.escape(character) for character in pattern)
    return re.compile("".join(parts), re.DOTALL)
