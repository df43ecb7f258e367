"""How B follows A on inputs a little unlike those compared on: of other contrast, and with noise."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otgraph.audit.fidelity import Network, fidelity
from otgraph.data import Array, Chunk
from otgraph.data_model import ModelData
from otgraph.errors import OtgraphError
from otgraph.task import OutputReading

INPUTS = 8
"""So many samples are shifted: enough to tell a factor of two, and four more runs of each."""

DISTINCT = 16
"""A float input of no more distinct values than this holds flags or sizes, and is left as it is."""

NOISE = 0.1
"""Of the deviation of each sample's input."""

Change = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True)
class Shift:
    """One kind of change, and the drift (``Fidelity.drift``) under it; None where the models could not be
    run or compared on such inputs."""

    name: str
    drift: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Shifts:
    """``samples``: how many inputs. ``drift_name``: what the figures are. ``unchanged``: the drift on the
    same inputs as they are. ``shifts``: under each change."""

    samples: int
    drift_name: str
    unchanged: float
    shifts: tuple[Shift, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "shifts": [shift.to_json() for shift in self.shifts]}


def shifts(a: Network, b: Network, data: ModelData, reading: OutputReading, seed: int = 0) -> Shifts | None:
    """Compare ``b`` with ``a`` on a few samples of ``data``, as they are and under each change.

    None where no input holds continuous values, or the samples cannot be compared by themselves.
    """
    few = data.take(INPUTS, seed=seed)
    names = _continuous(few)
    if not names:
        return None
    try:
        found = fidelity(a, b, few, None, "", reading, seed)
    except OtgraphError:  # a draw may leave nothing that the models can be run on
        return None

    def drift(change: Change) -> float | None:
        try:
            return fidelity(a, b, _changed(few, names, change, seed), None, "", reading, seed).drift
        except OtgraphError:  # outputs whose shape hangs on the values may differ
            return None

    changes = tuple(Shift(name, drift(change)) for name, change in CHANGES.items())
    return Shifts(len(few), found.drift_name, found.drift, changes)


def _continuous(data: ModelData) -> list[str]:
    """The inputs of floating point that hold more than a few distinct values."""
    names = [spec.name for spec in data.specs if data.chunks[0].arrays[spec.name].dtype.kind == "f"]
    seen = {name: np.concatenate([chunk.arrays[name].ravel() for chunk in data.chunks]) for name in names}
    return [name for name in dict.fromkeys(names) if len(np.unique(seen[name])) > DISTINCT]


def _changed(data: ModelData, names: list[str], change: Change, seed: int) -> ModelData:
    draws = {name: np.random.default_rng((seed, zlib.crc32(name.encode()))) for name in names}

    def of(chunk: Chunk) -> Chunk:
        arrays: Mapping[str, Array] = {name: change(chunk.arrays[name], draws[name]) for name in names}
        return replace(chunk, arrays={**chunk.arrays, **arrays})

    return replace(data, chunks=tuple(of(chunk) for chunk in data.chunks))


def _contrast(factor: float) -> Change:
    """Every sample drawn toward its mean, or away from it."""

    def change(array: Array, draw: np.random.Generator) -> Array:
        wide, mean = _moments(array)[:2]
        return (mean + factor * (wide - mean)).astype(array.dtype)

    return change


def _noise(array: Array, draw: np.random.Generator) -> Array:
    wide, _, deviation = _moments(array)
    return (wide + NOISE * deviation * draw.standard_normal(array.shape)).astype(array.dtype)


def _moments(array: Array) -> tuple[Any, Any, Any]:
    """``array`` in float64, and mean and deviation of each sample."""
    wide = np.asarray(array, np.float64)
    axes = tuple(range(1, wide.ndim))
    return wide, wide.mean(axes, keepdims=True), wide.std(axes, keepdims=True)


CHANGES: Mapping[str, Change] = {
    "contrast × 0.5": _contrast(0.5),
    "contrast × 1.5": _contrast(1.5),
    f"noise of {NOISE:.0%}".replace("%", " %"): _noise,
}
