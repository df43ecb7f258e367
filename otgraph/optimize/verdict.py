"""Which calibration inputs judge the result: some that are kept from everything, or all in turn.

What a network does on the inputs that its repair was fitted on says nothing of others (EfficientNet-Lite0 at
0.7x: 90 % agreement there, 58 % on other photographs). So a share of the inputs sees no calibration, no
price, no trial and no repair, and the figures come from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from otgraph.data import Array, Chunk
from otgraph.data_model import ModelData

Stretch = tuple[int, int]
"""Samples by number, the last one excluded."""

FEW = 64
"""Fewer inputs than these make too wide an interval to be worth keeping them from the repair (of an agreement
of 90 %, ± 7 points on 64): then all judge in turn."""
STRETCH = 32
"""Inputs are kept in stretches of so many at least, which hold kin whole; several stand for more."""
MOST = 4
"""So many stretches, and refits, at most."""
REACH = 0.05
"""An end of a stretch moves by this share of the inputs at most, to where neighbors differ most."""
SIDE = 6
"""So many samples on either side tell whether one source gives way to another."""
SEAM, PEAK = 2.0, 1.25
"""It does where they lie so many times as far apart as chance would have it, and as elsewhere near."""


@dataclass(frozen=True)
class Parts:
    """``fit``: the inputs that plan and repair see, ``unseen``: those that judge, None where none were kept.
    ``stretches``: which of all samples ``fit`` are. ``folds``: where all judge in turn, the inputs that a
    refit sees, and those that it is judged on."""

    fit: ModelData
    stretches: tuple[Stretch, ...]
    unseen: ModelData | None = None
    folds: tuple[tuple[ModelData, ModelData], ...] = ()


def divide(data: ModelData, share: float, *, batch: int = 1, in_turn: bool = True) -> Parts:
    """Keep ``share`` of ``data`` apart; where those would be few, and ``in_turn`` is wanted, all in turn.

    Stretches lie evenly over the data, since these may be sorted, and end where one source seems to give way
    to another: at the end of a file or of a batch, or where neighbors differ more than they do nearby.
    ``batch``: the samples that a model of a fixed batch takes at a time; stretches hold whole ones.
    """
    n, whole = len(data), ((0, len(data)),)
    kept = round(share * n)
    if kept >= max(FEW, 2 * batch):
        count = min(max(kept // max(STRETCH, batch), 1), MOST)
        reach = max(min(int(REACH * n), kept // count // 3), batch // 2)
        ends = [_seam(data, round((at + 1) * n / count), reach, batch) for at in range(count)]
        starts = [_seam(data, round((at + 1 - share) * n / count), reach, batch) for at in range(count)]
        judged = tuple(zip(starts, ends, strict=True))
        fit = tuple(zip((0, *ends[:-1]), starts, strict=True))
        if all(first < last for first, last in (*judged, *fit)):
            return Parts(data.between(fit), fit, data.between(judged))
    units = n // batch
    if share == 0 or not in_turn or units < 4:
        return Parts(data, whole)
    count = 2 if units < 12 else 3 if units < 32 else MOST
    reach = max(int(REACH * n), batch // 2)
    cuts = [0, *(_seam(data, round(at * n / count), reach, batch) for at in range(1, count)), n]
    folds = [(first, last) for first, last in pairwise(cuts) if first < last]
    pairs = [(data.between([(0, first), (last, n)]), data.between([(first, last)])) for first, last in folds]
    return Parts(data, whole, folds=tuple(pairs))


def _seam(data: ModelData, near: int, reach: int, batch: int) -> int:
    """The sample before which to cut: ``near``, or at most ``reach`` off."""
    if near >= len(data):
        return len(data)
    places = _places(data, near - reach, near + reach, batch)
    if not places:
        return near
    nearest = sorted(places, key=lambda place: abs(place.sample - near))
    for place in nearest:
        if np.isinf(place.gap):
            return place.sample
    best = max(places, key=lambda place: place.gap)
    usual = float(np.median([place.gap for place in places]))
    return best.sample if best.gap > SEAM * best.noise and best.gap > PEAK * usual else nearest[0].sample


@dataclass(frozen=True)
class _Place:
    """A sample that a stretch may begin with. ``gap``: how far the samples before it are from it and those
    after, on average; infinitely where the one before is in another chunk. ``noise``: the gap that samples of
    one source would show."""

    sample: int
    gap: float
    noise: float


def _places(data: ModelData, first: int, last: int, batch: int) -> list[_Place]:
    places: list[_Place] = []
    start = 0
    names = [spec.name for spec in data.specs]
    for chunk in data.chunks:
        here = [at for at in range(0, len(chunk), batch) if max(first, 1) <= start + at <= last]
        if here:
            offset = max(here[0] - SIDE, 0)
            looks = _looks(chunk, offset, min(here[-1] + SIDE, len(chunk)), names)
            steps = np.linalg.norm(np.diff(looks, axis=0), axis=1)
            step = float(np.median(steps)) if len(steps) else 0.0
            for at in here:
                before, after = looks[max(at - offset - SIDE, 0) : at - offset], looks[at - offset :][:SIDE]
                gap = float(np.linalg.norm(after.mean(0) - before.mean(0))) if at else float("inf")
                noise = step * float(np.sqrt((1 / max(len(before), 1) + 1 / len(after)) / 2))
                places.append(_Place(start + at, gap, noise))
        start += len(chunk)
    return places


def _looks(chunk: Chunk, first: int, last: int, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """What samples look like at a glance: mean and deviation of each channel, in units of their spread."""
    looks = np.concatenate([_glance(chunk.arrays[name][first:last]) for name in names], 1)
    spread = looks.std(0)
    return looks / np.where(spread > 0, spread, 1)


def _glance(array: Array) -> npt.NDArray[np.float64]:
    if array.dtype.kind not in "fiub":
        return np.zeros((len(array), 1))
    values = np.asarray(array, np.float64)
    if values.ndim < 3:
        return values.reshape(len(values), -1)
    flat = values.reshape(*values.shape[:2], -1)
    return np.concatenate([flat.mean(2), flat.std(2)], 1)
