"""Reductions. ``axes`` is an attribute in older opsets and an input in newer ones; absent means all axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from otgraph.graph.onnx.ops.integers import Integers, axes_of
from otgraph.graph.onnx.ops.unsupported import Unsupported

Reducer = Callable[[Tensor, list[int], bool], Tensor]


def ReduceSum(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(_sum, x, axes, keepdims, noop_with_empty_axes)


def ReduceMean(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(lambda v, a, k: v.mean(a, k), x, axes, keepdims, noop_with_empty_axes)


def ReduceMax(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(_largest, x, axes, keepdims, noop_with_empty_axes)


def ReduceMin(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(_smallest, x, axes, keepdims, noop_with_empty_axes)


def ReduceProd(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(_prod, x, axes, keepdims, noop_with_empty_axes)


def ReduceL1(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    _no_noop(axes, noop_with_empty_axes)
    return _reduce(lambda v, a, k: _sum(v.abs(), a, k), x, axes, keepdims, 0)


def ReduceL2(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    _no_noop(axes, noop_with_empty_axes)
    return _reduce(lambda v, a, k: _sum(v * v, a, k).sqrt(), x, axes, keepdims, 0)


def ReduceSumSquare(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    _no_noop(axes, noop_with_empty_axes)
    return _reduce(lambda v, a, k: _sum(v * v, a, k), x, axes, keepdims, 0)


def ReduceLogSum(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    _no_noop(axes, noop_with_empty_axes)
    return _reduce(lambda v, a, k: _sum(v, a, k).log(), x, axes, keepdims, 0)


def ReduceLogSumExp(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    _no_noop(axes, noop_with_empty_axes)
    return _reduce(lambda v, a, k: torch.logsumexp(v, a, k), x, axes, keepdims, 0)


def ArgMax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, x, axis, keepdims, select_last_index)


def ArgMin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, x, axis, keepdims, select_last_index)


def CumSum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along = int(axis.item())
    run = x.flip(along) if reverse else x
    total = run.cumsum(along, dtype=x.dtype)
    total = total - run if exclusive else total
    return total.flip(along) if reverse else total


def _reduce(reducer: Reducer, x: Tensor, axes: Integers | None, keepdims: int, noop: int) -> Tensor:
    over = [] if axes is None else axes_of(axes, x.dim())
    if not over:
        if noop:
            return x
        over = list(range(x.dim()))
    return reducer(x, over, bool(keepdims)) if x.dim() else reducer(x.reshape(1), [0], False)


def _no_noop(axes: Integers | None, noop: int) -> None:
    if noop and (axes is None or len(axes) == 0):
        raise Unsupported("noop_with_empty_axes on a reduction that also maps its elements")


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001  (torch's own calling convention)
    return x.sum(axes, keep, dtype=x.dtype)


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    """Of no values: the least that the type has."""
    if all(x.shape[axis] for axis in axes):
        return x.amax(axes, keep)
    return torch.full_like(_sum(x, axes, keep), _bounds(x.dtype)[0])


def _smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    """Of no values: the greatest that the type has."""
    if all(x.shape[axis] for axis in axes):
        return x.amin(axes, keep)
    return torch.full_like(_sum(x, axes, keep), _bounds(x.dtype)[1])


def _bounds(dtype: torch.dtype) -> tuple[float, float]:
    if dtype == torch.bool:
        return False, True
    if dtype.is_floating_point:
        return -math.inf, math.inf
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _arg(function: Callable[..., Tensor], x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    if not last:
        return function(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - function(x.flip(axis), axis, bool(keepdims))
