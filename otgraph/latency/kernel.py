"""``Kernel``: a single convolution or matrix product, as something that can be timed by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Kernel:
    """One node: ``conv``, ``depthwise`` or ``linear``, its widths, and what else its time depends on.

    ``inputs`` and ``outputs``: channels (of a depthwise convolution the same). ``space``: the spatial extent
    of the input, or for ``linear`` the number of rows. ``kernel``, ``stride``, ``dilation`` per spatial axis,
    ``pads`` as ONNX writes them. ``groups``: of a ``conv``; 1 for ``depthwise``.
    ``activation``: the ONNX operator that follows a convolution and that engines fuse into it, such as
    ``Relu``, or none."""

    kind: Literal["conv", "depthwise", "linear"]
    inputs: int
    outputs: int
    space: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    activation: str = ""

    def at(self, inputs: int, outputs: int) -> Kernel:
        """The same node with other widths."""
        return replace(self, inputs=inputs, outputs=outputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of what it reads: (1, inputs, *space), or (rows, inputs)."""
        return (*self.space, self.inputs) if self.kind == "linear" else (1, self.inputs, *self.space)

    @property
    def positions(self) -> int:
        """How many positions (rows) the result has."""
        if self.kind == "linear":
            return math.prod(self.space)
        n = len(self.space)
        sides = zip(
            self.space, self.kernel, self.stride, self.dilation, self.pads[:n], self.pads[n:], strict=True
        )
        return math.prod((size + a + b - d * (k - 1) - 1) // s + 1 for size, k, s, d, a, b in sides)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        read = 1 if self.kind == "depthwise" else self.inputs // self.groups
        return self.positions * self.outputs * read * math.prod(self.kernel)
