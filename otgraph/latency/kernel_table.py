"""What was measured of one kernel, as a function of its widths: monotone, and bilinear between the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, nnls

Floats = npt.NDArray[np.float64]
Point = tuple[int, int]

SWEEPS = 200

CLOSE = 1e-6
"""The relative change of a sweep below which the regression has come to rest."""


@dataclass(frozen=True)
class KernelTable:
    """Milliseconds at every combination of ``inputs`` and ``outputs`` (ascending), one row per inputs.

    ``tied``: a depthwise convolution, whose inputs are its outputs; then there is one row. Time never falls
    with a width. Narrow layers' times go in steps of the engine's blocks, so widths that matter are to be
    measured; between two of them, time is taken to be bilinear in the widths (which a sum of parts in
    proportion to in·out, in, out and nothing is)."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    tied: bool = False

    @classmethod
    def of(cls, points: Mapping[Point, float]) -> KernelTable:
        """From milliseconds by (inputs, outputs), all combinations of the widths named (some may be missing,
        see ``completed``), or with inputs equal to outputs throughout.

        Raises:
            ValueError: too many combinations are missing, or a time is not above 0.
        """
        inputs, outputs, raw, tied = _laid_out(points)
        raw = completed(raw)
        if np.isnan(raw).any() or not (raw > 0).all():
            raise ValueError(f"{len(points)} points: not a whole grid of times above 0")
        return cls(inputs, outputs, tuple(tuple(float(ms) for ms in row) for row in monotone(raw)), tied)

    def at(self, inputs: float, outputs: float) -> float:
        """Milliseconds at these widths; outside the grid, those of its border."""
        row, down = _between(self.inputs, outputs if self.tied else inputs)
        column, right = _between(self.outputs, outputs)
        values = np.array(self.rows)
        ends = (values[row, column], values[row, min(column + 1, values.shape[1] - 1)])
        row = min(row + 1, values.shape[0] - 1)
        others = (values[row, column], values[row, min(column + 1, values.shape[1] - 1)])
        near, far = (float(a + right * (b - a)) for a, b in (ends, others))
        return near + down * (far - near)

    def fitted(self) -> KernelTime:
        """The smooth form nearest to the table."""
        grid = zip(self.outputs, self.rows[0], strict=True)
        if self.tied:
            return fit_time([(o, o, ms) for o, ms in grid], tied=True)
        rows = zip(self.inputs, self.rows, strict=True)
        return fit_time([(i, o, ms) for i, row in rows for o, ms in zip(self.outputs, row, strict=True)])


def completed(times: Floats) -> Floats:
    """``times`` with what is missing (NaN) filled in, where the last row, the last column and the diagonal
    that ends in their corner are known; elsewhere it stays missing.

    A kernel's time is nearly a product of one function of its inputs and one of its outputs; what the
    diagonal says that this is off by is taken to change evenly between two of its points.
    """
    if not np.isnan(times).any():
        return times
    logs = np.log(times)
    product = logs[-1:] + logs[:, -1:] - logs[-1, -1]
    rows, columns = times.shape
    shared = min(rows, columns)
    off = np.diagonal(np.flip(logs - product))
    found = times.copy()
    for a in range(shared):
        for b in range(shared):
            row, column = rows - 1 - a, columns - 1 - b
            if np.isnan(found[row, column]):
                found[row, column] = np.exp(product[row, column] + (off[a] + off[b]) / 2)
    return found


def monotone(times: Floats) -> Floats:
    """The matrix nearest to ``times`` in relative error that is non-decreasing along both axes.

    Isotonic regression of the logarithms along one axis and the other in turn, with Dykstra's corrections
    (Dykstra & Robertson, 1982), so that noise raises no more entries than it lowers. Times that are
    non-decreasing already stay as they are.
    """
    if all((np.diff(times, axis=axis) >= 0).all() for axis in (0, 1)):
        return times
    logs = np.log(times)
    corrections = [np.zeros_like(logs), np.zeros_like(logs)]
    for _ in range(SWEEPS):
        before = logs
        for axis in (0, 1):
            wanted = logs + corrections[axis]
            logs = np.apply_along_axis(lambda row: isotonic_regression(row).x, axis, wanted)
            corrections[axis] = wanted - logs
        if np.abs(logs - before).max() < CLOSE:
            break
    for axis in (0, 1):  # what is left is rounding
        logs = np.maximum.accumulate(logs, axis)
    return np.exp(logs)


def _laid_out(points: Mapping[Point, float]) -> tuple[tuple[int, ...], tuple[int, ...], Floats, bool]:
    tied = len(points) > 1 and all(i == o for i, o in points)
    inputs = tuple(sorted({i for i, _ in points})) if not tied else (0,)
    outputs = tuple(sorted({o for _, o in points}))
    raw = np.full((len(inputs), len(outputs)), np.nan)
    for (i, o), ms in points.items():
        raw[0 if tied else inputs.index(i), outputs.index(o)] = ms
    return inputs, outputs, raw, tied


def _between(widths: tuple[int, ...], width: float) -> tuple[int, float]:
    """The position before ``width``, and how far it is to the next, from 0 to 1."""
    position = int(np.searchsorted(widths, width, side="right")) - 1
    if position < 0:
        return 0, 0.0
    if position >= len(widths) - 1:
        return len(widths) - 1, 0.0
    return position, (width - widths[position]) / (widths[position + 1] - widths[position])


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds as ``constant + both·in·out + inputs·in + outputs·out``, for nodes whose widths depend on
    more dims than a table can have; ``error`` is the largest relative deviation from what was measured."""

    constant: float
    both: float
    inputs: float
    outputs: float
    error: float = 0.0

    def at(self, inputs: float, outputs: float) -> float:
        """Milliseconds at these widths."""
        return self.constant + self.both * inputs * outputs + self.inputs * inputs + self.outputs * outputs


def fit_time(points: Sequence[tuple[int, int, float]], *, tied: bool = False) -> KernelTime:
    """The non-negative form nearest in relative error to ``(inputs, outputs, milliseconds)`` points.

    ``tied``: inputs and outputs are the same channels, so only the linear part is fitted.
    """
    i, o, t = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    columns = [np.ones_like(t), np.zeros_like(t) if tied else i * o, np.zeros_like(t) if tied else i, o]
    scale = np.array([max(float(column.max()), 1.0) for column in columns])
    design = np.stack(columns, axis=1) / scale / t[:, None]
    found = nnls(design, np.ones_like(t))[0] / scale
    form = KernelTime(*(float(value) for value in found))
    worst = max(abs(form.at(a, b) / c - 1) for a, b, c in points)
    return replace(form, error=float(worst))
