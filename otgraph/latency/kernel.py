"""``Kernel``: a single convolution or matrix product, as something that can be timed by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from otgraph.window import Window


@dataclass(frozen=True, repr=False)
class Kernel:
    """One node: ``conv``, ``depthwise`` or ``linear``, its geometry, and what else its time depends on."""

    kind: Literal["conv", "depthwise", "linear"]
    """Which family of kernels it is timed with."""
    window: Window
    """Channels, kernel, stride, padding, dilation and groups."""
    space: tuple[int, ...]
    """The spatial extent of the input, or for ``linear`` the number of rows."""
    activation: str = ""
    """The ONNX operator that engines fuse into a convolution before it, such as ``Relu``, or none."""

    @staticmethod
    def of(window: Window, space: Sequence[int], activation: str = "") -> Kernel:
        """The node of that geometry; what kind it is follows."""
        depthwise = window.groups > 1 and window.diagonal
        kind = "linear" if window.axis == -1 else "depthwise" if depthwise else "conv"
        return Kernel(kind, window, tuple(space), activation)

    def at(self, inputs: int, outputs: int) -> Kernel:
        """The same node with other widths (of a depthwise convolution both are the same)."""
        groups = outputs if self.kind == "depthwise" else self.window.groups
        return replace(self, window=replace(self.window, inputs=inputs, outputs=outputs, groups=groups))

    @property
    def inputs(self) -> int:
        """Channels that it reads."""
        return self.window.inputs

    @property
    def outputs(self) -> int:
        """Channels that it makes."""
        return self.window.outputs

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps per spatial axis."""
        return self.window.kernel

    @property
    def stride(self) -> tuple[int, ...]:
        """Per spatial axis."""
        return self.window.stride

    @property
    def pads(self) -> tuple[int, ...]:
        """As ONNX writes them."""
        return self.window.onnx_pads

    @property
    def dilation(self) -> tuple[int, ...]:
        """Per spatial axis."""
        return self.window.dilation

    @property
    def groups(self) -> int:
        """Of a ``conv``; 1 for ``depthwise``, whose groups are its channels and vary with them."""
        return 1 if self.kind == "depthwise" else self.window.groups

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of what it reads: (1, inputs, *space), or (rows, inputs)."""
        return (*self.space, self.inputs) if self.kind == "linear" else (1, self.inputs, *self.space)

    @property
    def positions(self) -> int:
        """How many positions (rows) the result has."""
        return math.prod(self.space if self.kind == "linear" else self.window.positions(self.space))

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.positions * self.window.weights

    def __repr__(self) -> str:
        """A key of the latency table: one that is spelt otherwise forgets all that was measured before."""
        names = ("kind", "inputs", "outputs", "space", "kernel", "stride", "pads", "dilation", "groups")
        return f"Kernel({', '.join(f'{name}={getattr(self, name)!r}' for name in (*names, 'activation'))})"
