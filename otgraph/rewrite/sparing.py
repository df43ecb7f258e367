"""Which dims break a cut: the largest set that does not is found by cutting groups and their halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def dims_to_spare(dims: Sequence[str], holds: Callable[[frozenset[str]], bool]) -> tuple[str, ...]:
    """The dims that must stay whole so that the rest can be cut.

    Args:
        dims: what was to be cut, in program order.
        holds: whether a cut of these dims, the others left whole, obeys the masking law.

    Returns:
        In the order of ``dims``. A dim counts as broken if adding it to what held so far breaks the law; of n
        dims of which f are broken about 2·f·log₂(n) cuts are tried.
    """
    good: set[str] = set()
    broken: list[str] = []

    def add(group: Sequence[str]) -> None:
        if not group:
            return
        if holds(frozenset(good | set(group))):
            good.update(group)
        elif len(group) == 1:
            broken.append(group[0])
        else:
            middle = len(group) // 2
            add(group[:middle])
            add(group[middle:])

    middle = len(dims) // 2  # that all of them together do not hold is known
    if len(dims) == 1:
        return tuple(dims)
    add(dims[:middle])
    add(dims[middle:])
    return tuple(broken)
