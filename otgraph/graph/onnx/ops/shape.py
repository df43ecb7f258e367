"""Operators that move elements without computing: reshape, transpose, join, cut, repeat, pad."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.integers import Integers, axes_of, integers, scalar
from otgraph.graph.onnx.ops.unsupported import Unsupported

_OPEN_END = (2**31 - 1, 2**63 - 1)
"""As the end of a slice these mean "all the rest", also where the step is negative."""


def Identity(x: Tensor) -> Tensor:
    return x


def Reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """A zero copies the size of the input's axis at the same place, unless ``allowzero``."""
    sizes = integers(shape)
    if not allowzero:
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def Flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    at = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))


def Transpose(x: Tensor, *, perm: Integers | None = None) -> Tensor:
    return x.permute(list(range(x.dim()))[::-1] if perm is None else integers(perm))


def Squeeze(x: Tensor, axes: Integers | None = None) -> Tensor:
    over = [i for i in range(x.dim()) if x.shape[i] == 1] if axes is None else axes_of(axes, x.dim())
    wide = [axis for axis in over if x.shape[axis] != 1]
    if wide:
        raise ValueError(f"squeeze of axis {wide[0]}, which has size {x.shape[wide[0]]}")
    return x.squeeze(tuple(over))


def Unsqueeze(x: Tensor, axes: Integers) -> Tensor:
    for axis in sorted(axes_of(axes, x.dim() + len(integers(axes)))):
        x = x.unsqueeze(axis)
    return x


def Shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def Size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def Expand(x: Tensor, shape: Tensor) -> Tensor:
    """Broadcasting in both directions: a 1 in ``shape`` keeps the input's size."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape))))


def Tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


def Concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


def Split(
    x: Tensor, split: Integers | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """``num_outputs`` is an attribute since opset 18; before, the importer counts the node's outputs."""
    if split is not None:
        return tuple(torch.split(x, integers(split), axis))
    if num_outputs is None:
        raise Unsupported("neither sizes nor a number of outputs")
    size, part = x.shape[axis], math.ceil(x.shape[axis] / num_outputs)
    sizes = [min(part, max(size - i * part, 0)) for i in range(num_outputs)]
    return tuple(torch.split(x, sizes, axis))


def Slice(
    x: Tensor, starts: Integers, ends: Integers, axes: Integers | None = None, steps: Integers | None = None
) -> Tensor:
    """Inputs since opset 10, attributes before. A negative step slices the flipped axis."""
    begins, stops = integers(starts), integers(ends)
    along = list(range(len(begins))) if axes is None else axes_of(axes, x.dim())
    strides = [1] * len(begins) if steps is None else integers(steps)
    for axis, begin, stop, step in zip(along, begins, stops, strides, strict=True):
        size = x.shape[axis]
        first, last = (v + size if v < 0 else v for v in (begin, stop))
        if step < 0:
            first, last = (
                min(max(first, 0), size - 1),
                -1 if stop in _OPEN_END else min(max(last, -1), size - 1),
            )
            x, first, last, step = x.flip(axis), size - 1 - first, size - 1 - last, -step
        first, last = min(max(first, 0), size), min(max(last, 0), size)
        if (first, last, step) != (0, size, 1):
            x = torch.ops.aten.slice.Tensor(x, axis, first, max(first, last), step)
    return x


def Pad(
    x: Tensor,
    pads: Integers,
    value: Tensor | float | None = None,
    axes: Integers | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """``pads`` and ``value`` are inputs since opset 11, attributes before; negative pads crop."""
    amounts = integers(pads)
    along = list(range(x.dim())) if axes is None else axes_of(axes, x.dim())
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(along):
        before[axis], after[axis] = amounts[i], amounts[len(along) + i]
    if mode == "constant":
        return _pad_constant(x, before, after, 0 if value is None else scalar(value))
    crop = _pad_constant(x, [min(p, 0) for p in before], [min(p, 0) for p in after], 0)
    return _pad_by_index(crop, [max(p, 0) for p in before], [max(p, 0) for p in after], mode)


def _pad_constant(x: Tensor, before: list[int], after: list[int], value: float) -> Tensor:
    last = max((i for i in range(x.dim()) if before[i] or after[i]), default=None)
    if last is None:
        return x
    first = min(i for i in range(x.dim()) if before[i] or after[i])
    flat = [amount for i in reversed(range(first, x.dim())) for amount in (before[i], after[i])]
    if x.dtype == torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=float(value)).to(torch.bool)
    return F.pad(x, flat, value=value)


def _pad_by_index(x: Tensor, before: list[int], after: list[int], mode: str) -> Tensor:
    """reflect, edge and wrap pick existing elements: NumPy knows which."""
    if mode not in ("reflect", "edge", "wrap"):
        raise Unsupported(f"pad mode {mode}")
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            index = np.pad(np.arange(x.shape[axis]), (before[axis], after[axis]), mode=mode)
            x = x.index_select(axis, torch.from_numpy(index).to(x.device))
    return x


def DepthToSpace(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    s, inner = blocksize, c // (blocksize * blocksize)
    if mode == "DCR":
        blocks = x.reshape(n, s, s, inner, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, inner, s, s, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, inner, h * s, w * s)


def SpaceToDepth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode != "DCR":
        raise Unsupported(f"space to depth in mode {mode}")
    n, c, h, w = x.shape
    s = blocksize
    blocks = x.reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * s * s, h // s, w // s)
