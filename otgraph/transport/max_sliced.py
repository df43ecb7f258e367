"""Sliced lower bounds of W₂² between two samples: the best direction by ascent, and sums over axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otgraph.transport.cost import FloatArray


@dataclass(frozen=True, eq=False)
class MaxSliced:
    """``value``: W₂² between the projections of the two samples onto the unit vector ``direction`` (n,)."""

    value: float
    direction: FloatArray


def projected_distance(source: FloatArray, target: FloatArray) -> FloatArray:
    """Exact W₂² between the columns of two samples (m, q) of equal size, column by column: (q,).

    On the line the increasing pairing is optimal.
    """
    return np.square(np.sort(source, axis=0) - np.sort(target, axis=0)).mean(0)


def sliced_sum(source: FloatArray, target: FloatArray, basis: FloatArray | None = None) -> float:
    """Σ over an orthonormal basis (columns of (n, q), or the axes) of the W₂² of the projections.

    At most W₂²: the cost of any coupling is the sum of its costs along the axes of any orthonormal basis, and
    each of these is at least the optimum of that axis.
    """
    if basis is not None:
        source, target = source @ basis, target @ basis
    return float(projected_distance(source, target).sum())


def max_sliced(
    source: FloatArray, target: FloatArray, *, starts: int = 4, steps: int = 60, seed: int = 0
) -> MaxSliced:
    """The direction along which two samples (m, n) of equal size differ most, by Riemannian gradient ascent.

    Its value is at most W₂² (a projection shortens no distance), whether or not the ascent has converged. By
    Danskin's theorem the gradient of W₂²(θ) is that of its optimal coupling π held fixed, 2 M_π θ with
    M_π = mean (x − y_π)(x − y_π)ᵀ; the step is along its part orthogonal to θ, doubled while it gains and
    halved until it does. Starts: the difference of the means, the axis and the two principal directions in
    which variances differ most, and ``starts`` random ones.
    """
    found = [_ascend(source, target, theta, steps) for theta in _starts(source, target, starts, seed)]
    return max(found, key=lambda one: one.value)


def _starts(source: FloatArray, target: FloatArray, count: int, seed: int) -> list[FloatArray]:
    n = source.shape[1]
    shift = source.mean(0) - target.mean(0)
    axis = np.zeros(n)
    axis[int(np.argmax(projected_distance(source, target)))] = 1.0
    spread = (source - source.mean(0)).T @ (source - source.mean(0))
    spread -= (target - target.mean(0)).T @ (target - target.mean(0))
    vectors = np.linalg.eigh(spread)[1]
    random = np.random.default_rng(seed).standard_normal((count, n))
    found = [shift, axis, vectors[:, 0], vectors[:, -1], *random]
    return [theta / np.linalg.norm(theta) for theta in found if np.linalg.norm(theta) > 0]


def _ascend(source: FloatArray, target: FloatArray, theta: FloatArray, steps: int) -> MaxSliced:
    value, gradient = _value_and_gradient(source, target, theta)
    step = 1.0
    for _ in range(steps):
        slope = gradient - (gradient @ theta) * theta
        size = float(np.linalg.norm(slope))
        if size <= 1e-9 * max(value, 1e-300):
            break
        moved = _retract(theta, slope, step / max(value, 1e-300))
        new_value, new_gradient = _value_and_gradient(source, target, moved)
        if new_value > value:
            if new_value - value < 1e-6 * value:
                return MaxSliced(new_value, moved)
            theta, value, gradient = moved, new_value, new_gradient
            step *= 2.0
        else:
            step *= 0.25
            if step < 1e-6:
                break
    return MaxSliced(value, theta)


def _retract(theta: FloatArray, slope: FloatArray, step: float) -> FloatArray:
    moved = theta + step * slope
    return moved / np.linalg.norm(moved)


def _value_and_gradient(
    source: FloatArray, target: FloatArray, theta: FloatArray
) -> tuple[float, FloatArray]:
    x, y = source @ theta, target @ theta
    i, j = np.argsort(x), np.argsort(y)
    gap = np.empty_like(x)
    gap[i] = x[i] - y[j]
    back = np.empty_like(y)
    back[j] = gap[i]
    return float(np.square(gap).mean()), 2.0 * (gap @ source - back @ target) / len(x)
