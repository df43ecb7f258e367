"""Exact composition and addition of affine maps that slide over positions, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from otgraph.window import Window, add_windows, compose_windows, reads_within

_EQUAL = 1e-12
"""Two sums in float64 of terms of size one that differ by less are the same up to rounding."""

Edge = tuple[torch.Tensor, torch.Tensor]
"""What a map gives where its whole window lies outside its input, and the size of the terms of that sum; each
(outputs,)."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """``y = W * pad(x) + b`` in float64.

    ``weight``: (outputs, inputs/groups, *kernel). ``bias``: (outputs,). ``fill``: (inputs,), what the padding
    of the window holds; zeros for a convolution's own padding.
    """

    window: Window
    weight: torch.Tensor
    bias: torch.Tensor
    fill: torch.Tensor

    def on_constant(self, value: torch.Tensor) -> torch.Tensor:
        """Its output, (outputs,), where every position that it reads holds ``value`` (inputs,)."""
        return self.bias + _product(self, self.weight, value)

    def size_on_constant(self, value: torch.Tensor) -> torch.Tensor:
        """The size, (outputs,), of the terms that ``on_constant`` adds."""
        return self.bias.abs() + _product(self, self.weight.abs(), value.abs())


def linear_map(
    window: Window,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    fill: torch.Tensor | float = 0.0,
) -> LinearMap:
    """A map of the given numbers, of any floating type, which are taken to float64 and to the CPU.

    Raises:
        ValueError: the numbers do not fit the window.
    """
    wanted = (window.outputs, window.inputs // window.groups, *window.kernel)
    if tuple(weight.shape) != wanted or (bias is not None and tuple(bias.shape) != (window.outputs,)):
        raise ValueError(f"the weight has shape {tuple(weight.shape)}, and its window is one of {wanted}")
    zeros = torch.zeros(window.outputs, dtype=torch.float64)
    filled = torch.as_tensor(fill, dtype=torch.float64).expand(window.inputs)
    return LinearMap(window, _double(weight), zeros if bias is None else _double(bias), filled)


def compose(first: LinearMap, second: LinearMap) -> LinearMap | str:
    """``second`` after ``first`` as one map, or why there is none that is equal at the borders too, in words.

    Where ``second`` pads, it reads its fill, and the composition what ``first`` would give outside its input.
    The two agree where that is one value, equal to the fill: where ``second`` does not pad, where ``first``
    reads nothing of its input there (a 1×1 kernel, or as much padding as its kernel reaches) and has the bias
    that the padding holds.
    """
    refused = why_not_composed(first, second)
    if refused is not None:
        return refused
    window = compose_windows(first.window, second.window)
    weight = _spread(first, second, window)
    return LinearMap(window, weight, second.on_constant(first.bias), first.fill)


def why_not_composed(first: LinearMap, second: LinearMap) -> str | None:
    """Why ``compose`` refuses, without its work; None where it does not."""

    def edge() -> Edge:
        return first.on_constant(first.fill), first.size_on_constant(first.fill)

    return why_no_border(first.window, edge, second.window, second.fill)


def why_no_border(
    first: Window, edge: Callable[[], Edge], second: Window, fill: torch.Tensor | float
) -> str | None:
    """``why_not_composed`` by what decides it: the windows, what the first gives where it reads nothing but
    its own padding (asked for only where it matters), and what the padding of the second holds."""
    if not second.pads:
        return None
    if not reads_within(first, second):
        return "the padding between them is not what the first would give there"
    filled = torch.as_tensor(fill, dtype=torch.float64)
    value, size = edge()
    if bool(((value - filled).abs() > _EQUAL * (size + filled.abs())).any()):
        return "the padding between them does not hold the bias of the first"
    return None


def add(a: LinearMap, b: LinearMap, scale: float = 1.0) -> LinearMap | str:
    """``a(x) + scale * b(x)`` as one map, or why there is none, in words."""
    window = add_windows(a.window, b.window)
    if isinstance(window, str):
        return window
    padded = [m for m in (a, b) if m.window.pads]
    if len(padded) == 2 and not torch.equal(a.fill, b.fill):
        return "they pad with different values"
    weight = _placed(a, window) + scale * _placed(b, window)
    fill = padded[0].fill if padded else a.fill
    return LinearMap(window, weight, a.bias + scale * b.bias, fill)


def regroup(weight: torch.Tensor, groups: int, wanted: int) -> torch.Tensor:
    """A weight of ``groups`` groups as one of ``wanted`` (a divisor), with zeros between the blocks."""
    if groups == wanted:
        return weight
    merged, rest = groups // wanted, tuple(weight.shape[2:])
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    blocks = weight.reshape(wanted, merged, rows, columns, *rest)
    wide = weight.new_zeros(wanted, merged, rows, merged, columns, *rest)
    for index in range(merged):
        wide[:, index, :, index] = blocks[:, index]
    return wide.reshape(weight.shape[0], merged * columns, *rest)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(dtype=torch.float64, device="cpu")


def _product(m: LinearMap, weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The weight summed over its taps, times one value per input channel, (outputs,)."""
    groups = m.window.groups
    taps = weight.reshape(*weight.shape[:2], -1).sum(-1)
    blocks = taps.reshape(groups, -1, taps.shape[1]) @ value.reshape(groups, -1, 1)
    return blocks.reshape(-1)


def _spread(first: LinearMap, second: LinearMap, window: Window) -> torch.Tensor:
    """The composed weight: every tap of ``second`` lays the whole kernel of ``first`` down at its place."""
    inner, outer = first.window, second.window
    weight = torch.zeros(window.outputs, window.inputs // window.groups, *window.kernel, dtype=torch.float64)
    for tap in itertools.product(*map(range, outer.kernel)):
        at = [inner.stride[a] * outer.dilation[a] * tap[a] // window.dilation[a] for a in range(len(tap))]
        place = tuple(
            slice(at[a], at[a] + inner.extents[a] // window.dilation[a] + 1, _step(inner, window, a))
            for a in range(len(tap))
        )
        weight[(slice(None), slice(None), *place)] += _mixed(first, second, tap, window.groups)
    return weight


def _step(inner: Window, window: Window, axis: int) -> int:
    """How far apart the taps of ``inner`` lie in the kernel of ``window``."""
    return max(1, inner.dilation[axis] // window.dilation[axis])


def _mixed(first: LinearMap, second: LinearMap, tap: tuple[int, ...], groups: int) -> torch.Tensor:
    """One tap of ``second`` times the whole kernel of ``first``: (outputs, inputs/groups, *first.kernel)."""
    inner, outer = first.window, second.window
    matrix = second.weight[(slice(None), slice(None), *tap)]
    kernel = first.weight.reshape(*first.weight.shape[:2], -1)
    if outer.diagonal:
        mixed = matrix.reshape(-1, 1, 1) * kernel
    elif inner.diagonal:
        rows = matrix.reshape(outer.groups, -1, matrix.shape[1], 1)
        mixed = rows * kernel.reshape(outer.groups, 1, matrix.shape[1], -1)
    else:
        left = regroup(matrix, outer.groups, groups)
        right = regroup(kernel, inner.groups, groups)
        mixed = left.reshape(groups, -1, left.shape[1]) @ right.reshape(groups, left.shape[1], -1)
    return mixed.reshape(outer.outputs, -1, *inner.kernel)


def _placed(m: LinearMap, window: Window) -> torch.Tensor:
    """The weight of ``m`` as a kernel of ``window``, which holds its taps."""
    weight = regroup(m.weight, m.window.groups, window.groups)
    wide = weight.new_zeros(*weight.shape[:2], *window.kernel)
    place: list[slice] = []
    for axis, step in enumerate(window.dilation):
        start = (window.padding[axis][0] - m.window.padding[axis][0]) // step
        place.append(slice(start, start + m.window.extents[axis] // step + 1, _step(m.window, window, axis)))
    wide[(slice(None), slice(None), *place)] = weight
    return wide
