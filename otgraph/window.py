"""The geometry of a map that slides over positions: what a composition or a sum of two of them looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """A convolution without its numbers; with no spatial axis it is a matrix product.

    ``padding`` has one (before, after) pair per spatial axis; a negative amount crops. Groups are contiguous
    blocks of channels.
    """

    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: Pads = ()
    dilation: tuple[int, ...] = ()

    @property
    def axis(self) -> Literal[1, -1]:
        """Where the channels lie: before the positions, or last where nothing slides."""
        return 1 if self.kernel else -1

    @property
    def extents(self) -> tuple[int, ...]:
        """Per axis the distance from the first tap to the last."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def onnx_pads(self) -> tuple[int, ...]:
        """The padding in ONNX's order: before every axis, then after."""
        return (*(before for before, _ in self.padding), *(after for _, after in self.padding))

    def positions(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of the output for an input of spatial ``sizes``."""
        axes = zip(sizes, self.extents, self.stride, self.padding, strict=True)
        return tuple((size + sum(pads) - extent - 1) // step + 1 for size, extent, step, pads in axes)

    @property
    def weights(self) -> int:
        """Numbers in the kernel: the multiply–accumulates of one output position."""
        return self.outputs * (self.inputs // self.groups) * math.prod(self.kernel)

    @property
    def pads(self) -> bool:
        """Whether it reads outside its input."""
        return any(amount > 0 for pair in self.padding for amount in pair)

    @property
    def diagonal(self) -> bool:
        """Whether each output channel reads the input channel of the same number and no other."""
        return self.inputs == self.outputs == self.groups


def pointwise(channels: int, axes: int) -> Window:
    """The window of one factor per channel."""
    ones = (1,) * axes
    return Window(channels, channels, channels, ones, ones, ((0, 0),) * axes, ones)


def compose_windows(first: Window, second: Window) -> Window:
    """The window of ``second`` after ``first``: its taps lie ``first.stride`` times as far apart as those of
    ``second``, and its output has the same positions whatever the size of the input."""
    axes = range(len(first.kernel))
    step = [first.stride[a] * second.dilation[a] for a in axes]
    extents = [first.extents[a] + first.stride[a] * second.extents[a] for a in axes]
    taps = [
        [d for d, k in ((first.dilation[a], first.kernel[a]), (step[a], second.kernel[a])) if k > 1]
        for a in axes
    ]
    dilation = [math.gcd(*found) if found else 1 for found in taps]
    return Window(
        first.inputs,
        second.outputs,
        math.gcd(first.groups, second.groups),
        tuple(extents[a] // dilation[a] + 1 for a in axes),
        tuple(first.stride[a] * second.stride[a] for a in axes),
        tuple(
            (
                first.padding[a][0] + first.stride[a] * second.padding[a][0],
                first.padding[a][1] + first.stride[a] * second.padding[a][1],
            )
            for a in axes
        ),
        tuple(dilation),
    )


def reads_within(first: Window, second: Window) -> bool:
    """Whether the padding of ``second`` lies where ``first``, were it computed there, would read nothing of
    its own input: then it is the same value at every such position.

    True for every size of the input: its end may fall anywhere between the steps of the strides.
    """
    for axis, (before, after) in enumerate(second.padding):
        extent, (start, end) = first.extents[axis], first.padding[axis]
        if before > 0 and extent - start >= first.stride[axis] * _nearest(second, axis):
            return False
        if after > 0 and extent > end:
            return False
    return True


def _nearest(window: Window, axis: int) -> int:
    """How far before the input the closest position that ``window`` reads there lies."""
    before, stride = window.padding[axis][0], window.stride[axis]
    reach = (before - tap * window.dilation[axis] for tap in range(window.kernel[axis]))
    return min((distance - 1) % stride + 1 for distance in reach if distance > 0)


def add_windows(a: Window, b: Window) -> Window | str:
    """The smallest window that holds the taps of both, or why no one window does, in words.

    The tap that reads the position of the output lies at index ``padding / dilation`` of either kernel: there
    a 1×1 kernel goes, which is the middle only of an odd kernel padded to keep the size.
    """
    if (a.inputs, a.outputs) != (b.inputs, b.outputs):
        return "they have different channels"
    if a.stride != b.stride:
        return f"their strides differ ({_sizes(a.stride)} and {_sizes(b.stride)})"
    axes = range(len(a.kernel))
    if any(sum(a.padding[i]) - a.extents[i] != sum(b.padding[i]) - b.extents[i] for i in axes):
        return "their outputs have different sizes"
    before = [max(a.padding[i][0], b.padding[i][0]) for i in axes]
    after = [max(w.extents[i] - w.padding[i][0] for w in (a, b)) for i in axes]
    surplus = [sum(a.padding[i]) - a.extents[i] for i in axes]
    dilation = [
        math.gcd(*(w.dilation[i] for w in (a, b) if w.kernel[i] > 1), a.padding[i][0] - b.padding[i][0]) or 1
        for i in axes
    ]
    return Window(
        a.inputs,
        a.outputs,
        math.gcd(a.groups, b.groups),
        tuple((before[i] + after[i]) // dilation[i] + 1 for i in axes),
        a.stride,
        tuple((before[i], surplus[i] + after[i]) for i in axes),
        tuple(dilation),
    )


def _sizes(values: tuple[int, ...]) -> str:
    return "×".join(map(str, values))
