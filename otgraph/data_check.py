"""Does DATA fit a model's inputs? Checked once, before any work, with a message that says what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.data import Array, Chunk, Data
from otgraph.errors import DataError

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model: an axis is an int where it is fixed and a name where it is dynamic."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{shape_text(self.shape)}"


def shape_text(shape: Sequence[int | str]) -> str:
    """``(batch, 3, 224, 224)``."""
    return f"({', '.join(str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def fits(shape: Sequence[int | str], sizes: Sequence[int]) -> bool:
    """Whether ``sizes`` are those of ``shape`` wherever it fixes one."""
    pairs = zip(shape, sizes, strict=False)
    return len(shape) == len(sizes) and all(isinstance(want, str) or want == have for want, have in pairs)


def check_data(data: Data, specs: Sequence[TensorSpec]) -> None:
    """Raise ``DataError`` unless each chunk of ``data`` holds a usable array for each input in ``specs``.

    Usable: the name is there, the first axis counts samples (at least one, the same number for all
    inputs), dtype and the other axes are what the input wants, no NaN or infinity. Arrays that no
    input asks for are ignored.
    """
    if not data.chunks:
        raise DataError(f"{data.source}: holds no samples; give at least one")
    start = 0
    for chunk in data.chunks:
        for spec in specs:
            _check_array(data.source, chunk, spec, start)
        _check_lengths(data.source, chunk, specs)
        start += len(chunk)


def _check_array(source: str, chunk: Chunk, spec: TensorSpec, start: int) -> None:
    name = spec.name
    if name not in chunk.arrays:
        has = ", ".join(sorted(chunk.arrays)) or "nothing"
        raise DataError(f"{source}: no array for input '{name}' (has: {has}); rename it")
    array = chunk.arrays[name]
    where = f"{source}: {name}"
    if array.ndim == 0:
        raise DataError(f"{where}: is a single value; give an array whose first axis counts samples")
    if array.shape[0] == 0:
        raise DataError(f"{where}: holds no samples; give at least one")
    if array.dtype != spec.dtype:
        fix = "give numbers" if array.dtype.kind in "OUS" else f"convert it with .astype(np.{spec.dtype})"
        raise DataError(f"{where}: {array.dtype}, the model wants {spec.dtype}; {fix}")
    if not _shape_fits(array.shape, spec.shape):
        has = shape_text(("…", *array.shape[1:]))
        raise DataError(f"{where}: has shape {has}, the model wants {shape_text(spec.shape)}; reshape it")
    _check_finite(where, array, start)


def _shape_fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Equal rank, and equal size on each fixed axis but the first, which counts samples."""
    if len(shape) != len(wanted):
        return False
    pairs = zip(shape[1:], wanted[1:], strict=True)
    return all(isinstance(want, str) or size == want for size, want in pairs)


def _check_finite(where: str, array: Array, start: int) -> None:
    if array.dtype.kind not in "fc":
        return
    for index, sample in enumerate(array):
        values: npt.NDArray[np.inexact[Any]] = np.asarray(sample)
        if np.isfinite(values).all():
            continue
        nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        parts = [f"{nans} NaN"] * (nans > 0) + [f"{infinities} infinite values"] * (infinities > 0)
        raise DataError(f"{where}: holds {' and '.join(parts)} in sample {start + index}; remove or mend it")


def _check_lengths(source: str, chunk: Chunk, specs: Sequence[TensorSpec]) -> None:
    lengths = {spec.name: len(chunk.arrays[spec.name]) for spec in specs}
    if chunk.labels is not None:
        lengths["labels"] = len(chunk.labels)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise DataError(f"{source}: the number of samples differs: {counts}; store as many of each")
