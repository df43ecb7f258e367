"""Exact local search: single moves and pairs of moves of dims and options, the best one each time.

Every move is priced exactly (``walk``), so what it ends in is never worse than where it began and no single
change or pair of changes of those it looks at improves it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.allocate.problem import Caps
from otgraph.allocate.walk import Walk

Floats = npt.NDArray[np.float64]

LEAST_GAIN = 1e-9
"""What a move must gain, as a fraction of the objective; less is rounding, which could make a loop."""

FIRST_OPTIONS = 64
"""The first of two moves is one of at most so many options: pairs of options grow with their square."""

MOST_MOVES = 500


@dataclass(frozen=True)
class Goal:
    """What moves gain. ``score``: from the time that they save and the damage that they add to the gain, -inf
    where that is not allowed; ``layers``: so many may be on the longest path after them."""

    score: Callable[[Floats, Floats], Floats]
    layers: int | None


def lessen_damage(walk: Walk, caps: Caps, *, pairs: bool = True) -> None:
    """Lower the damage where ``walk`` stands, within ``caps`` (or where it is beyond them, no further), by
    single moves and, if wanted, ``pairs`` of them."""

    def descend() -> bool:
        most, time, least = max(caps.time, walk.time), walk.time, LEAST_GAIN * abs(walk.damage)

        def score(saved: Floats, harm: Floats) -> Floats:
            return np.where((time - saved <= most) & (harm < -least), -harm, -np.inf)

        layers = None if caps.layers is None else max(caps.layers, walk.layers())
        return _moved(walk, Goal(score, layers), pairs=pairs)

    _repeat(descend)


def lessen_time(walk: Walk, limit: float, layers: int | None = None, *, pairs: bool = True) -> None:
    """Lower the time where ``walk`` stands, the damage at most ``limit`` and the longest path at most
    ``layers`` (or no higher, where they are above that), by single moves and, if wanted, ``pairs``."""

    def descend() -> bool:
        # finite, for a level that a dim has not does infinite damage
        most, damage = min(max(limit, walk.damage), sys.float_info.max), walk.damage
        least = LEAST_GAIN * abs(walk.time)

        def score(saved: Floats, harm: Floats) -> Floats:
            return np.where((damage + harm <= most) & (saved > least), saved, -np.inf)

        most_layers = None if layers is None else max(layers, walk.layers())
        return _moved(walk, Goal(score, most_layers), pairs=pairs)

    _repeat(descend)


def _repeat(descend: Callable[[], bool]) -> None:
    for _ in range(MOST_MOVES):
        if not descend():
            break


def _moved(walk: Walk, goal: Goal, *, pairs: bool) -> bool:
    """Make the best single move, or else the best of the ``pairs``; False when there is none."""
    for moves in (_single, _two_dims, _option_first) if pairs else (_single,):
        best = max(moves(walk, goal), key=lambda found: found[0], default=None)
        if best is not None:
            for move in best[1]:
                _make(walk, move)
            return True
    return False


Move = tuple[int, int] | int
"""A dim to a level, or an option taken or given up."""

Found = tuple[float, tuple[Move, ...]]
"""What some moves gain together."""


def _make(walk: Walk, move: Move) -> None:
    if isinstance(move, int):
        walk.move_option(move)
    else:
        walk.move_dim(*move)


def _single(walk: Walk, goal: Goal, saved: float = 0.0, harm: float = 0.0) -> Iterator[Found]:
    """The best move of a dim and of an option, after moves that save and add so much."""
    if goal.layers is None or walk.layers() <= goal.layers:
        yield from _best(walk, goal.score(saved + walk.saved_by_dims(), harm + walk.harm_of_dims()))
    gains = goal.score(saved + walk.saved_by_options(), harm + walk.harm_of_options())
    if goal.layers is not None:
        gains = np.where(walk.layers_by_options() <= goal.layers, gains, -np.inf)
    if gains.size and np.isfinite(gains.max()):
        yield float(gains.max()), (int(gains.argmax()),)


def _best(walk: Walk, gains: Floats) -> Iterator[Found]:
    """The best of moves of dims, singly (dims, levels) or in pairs (dims · levels, dims · levels)."""
    if gains.size and np.isfinite(gains.max()):
        at = [gains.argmax()] if gains.shape == walk.widths.shape else divmod(gains.argmax(), gains.shape[1])
        most = walk.widths.shape[1]
        yield float(gains.max()), tuple((int(each) // most, int(each) % most) for each in at)


def _two_dims(walk: Walk, goal: Goal) -> Iterator[Found]:
    if not len(walk.rows):
        return
    saved, harm = walk.saved_by_dims().reshape(-1), walk.harm_of_dims().reshape(-1)
    together, cross = np.add.outer(harm, harm), walk.cross_harm()
    if cross is not None:
        together += cross
    dims = np.arange(len(harm)) // walk.widths.shape[1]
    together[dims[:, None] == dims] = np.inf
    yield from _best(walk, goal.score(np.add.outer(saved, saved) + walk.cross_saved(), together))


def _option_first(walk: Walk, goal: Goal) -> Iterator[Found]:
    """The best moves after each of the options, those first that are the cheapest way of saving time."""
    saved, harm = walk.saved_by_options(), walk.harm_of_options()
    for option in by_worth(walk)[:FIRST_OPTIONS]:
        after = copy.copy(walk)
        after.move_option(option)
        for gain, moves in _single(after, goal, float(saved[option]), float(harm[option])):
            yield gain, (option, *moves)


def by_worth(walk: Walk) -> list[int]:
    """The options that may be moved, those first that are cheapest: by the damage their move adds less what
    the time that it saves is worth, as time is paid for where ``walk`` stands."""
    full = walk.problem.time(walk.problem.full())
    worth = walk.damage / (full - walk.time) if full > walk.time else 0.0
    harm = walk.harm_of_options()
    order = np.argsort(harm - worth * walk.saved_by_options(), kind="stable")
    return [int(option) for option in order if np.isfinite(harm[option])]
