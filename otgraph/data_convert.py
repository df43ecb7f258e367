"""Arrays of another type than the model wants, where no value is lost by changing it: NumPy's own default is
float64, and models want float32."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.data import Array, Chunk, Data
from otgraph.data_check import TensorSpec
from otgraph.errors import DataConverted, DataError

ROUNDING = float(np.finfo(np.float32).eps)
"""By how much of itself a value may change."""
_AT_ONCE = 2**22
"""Elements that are converted together."""


def convert_data(data: Data, specs: Sequence[TensorSpec]) -> Data:
    """``data`` with each array of ``specs`` in the type that is wanted there, where that is of the same kind
    and loses nothing: real numbers stay finite and within ``ROUNDING``, whole numbers stay as they are.

    What was converted is said in a ``DataConverted``. Integers are never made real numbers, nor the other way
    round: that could change what they mean.

    Raises:
        DataError: a value would be lost; names it and its sample.
    """
    said: dict[str, str] = {}
    chunks: list[Chunk] = []
    start = 0
    for chunk in data.chunks:
        arrays = dict(chunk.arrays)
        for spec in specs:
            array = arrays.get(spec.name)
            if array is None or array.dtype == spec.dtype or not _same_kind(array.dtype, spec.dtype):
                continue
            arrays[spec.name] = _converted(array, spec, f"{data.source}: {spec.name}", start)
            if array.dtype.name != spec.dtype.name:
                said[spec.name] = f"{array.dtype.name}, converted to {spec.dtype.name} as the model wants it"
        start += len(chunk)
        chunks.append(replace(chunk, arrays=arrays))
    for name, text in said.items():
        warnings.warn(f"{data.source}: {name}: {text}", DataConverted, stacklevel=2)
    return replace(data, chunks=tuple(chunks))


def _same_kind(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    return any(a.kind in kinds and b.kind in kinds for kinds in ("f", "iu"))


def _converted(array: Array, spec: TensorSpec, where: str, start: int) -> Array:
    """``array`` in the type of ``spec``; ``start``: the number of its first sample."""
    found = np.empty(array.shape, spec.dtype)
    rows = max(1, _AT_ONCE // max(1, array[:1].size)) if array.ndim else 1
    for first in range(0, len(array) if array.ndim else 0, rows):
        part = array[first : first + rows]
        with np.errstate(over="ignore", under="ignore"):
            made = part.astype(spec.dtype)
        lost = ~_survives(part, made)
        if lost.any():
            at = tuple(int(index) for index in np.argwhere(lost)[0])
            raise DataError(
                f"{where}: {part[at]} in sample {start + first + at[0]} is {array.dtype}, and no such number"
                f" is {spec.dtype}, which the model wants; mend or rescale it"
            )
        found[first : first + rows] = made
    return found


def _survives(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if old.dtype.kind in "iu":
        return (new.astype(old.dtype) == old) & ((new < 0) == (old < 0))
    wide = np.promote_types(old.dtype, new.dtype)
    a, b = old.astype(wide), new.astype(wide)
    with np.errstate(invalid="ignore", under="ignore"):
        near = np.isfinite(b) & (np.abs(b - a) <= ROUNDING * np.abs(a))
    return near | (a == b) | (np.isnan(a) & np.isnan(b))
