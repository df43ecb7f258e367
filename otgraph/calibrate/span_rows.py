"""What enters a span as rows of a regression: windows of one value, at one stride."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from otgraph.calibrate.rows import Geometry, gathered
from otgraph.graph.affine import Affine
from otgraph.graph.span_site import Shape, SpanSite


@dataclass(frozen=True)
class Source:
    """The rows that some spans share: windows of ``kernel`` of the value ``entry``, at one stride. ``axis``
    -1: the channels alone."""

    entry: str
    axis: int
    channels: int
    space: Shape
    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]

    @staticmethod
    def of(site: SpanSite, entry: str, kernel: Shape) -> Source:
        """The rows for a map of ``kernel`` (empty: of one position)."""
        kernel = kernel or (1,) * len(site.stride)
        return Source(
            entry,
            site.axis,
            site.entry,
            site.space,
            kernel,
            site.stride,
            site.padding(kernel) if kernel else (),
        )

    @property
    def width(self) -> int:
        """The number of columns: channels, times the taps of the kernel (which run fastest)."""
        return self.channels * math.prod(self.kernel)

    @property
    def tap(self) -> int:
        """The tap that reads the position itself (input position output times stride)."""
        place = 0
        for size, (before, _) in zip(self.kernel, self.padding, strict=True):
            place = place * size + min(before, size - 1)
        return place

    @property
    def own(self) -> torch.Tensor:
        """The columns that hold the position itself, by channel."""
        return torch.arange(self.channels) * math.prod(self.kernel) + self.tap

    def rows(self, value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """(N*p, width): the windows of ``value`` at the flat output positions ``at``."""
        if self.axis == -1:
            return gathered(value, -1, at).transpose(1, 2).reshape(-1, self.channels)
        geometry = Geometry(self._affine(), self.kernel, 1, self.width, 1, value.dtype)
        nothing = value.new_zeros((value.shape[0], 1, len(at)))
        return torch.cat([rows[0] for rows, _ in geometry.blocks(value, nothing, at)])

    def positions(self, value: torch.Tensor) -> int:
        """How many output positions there are for ``value``, which may be larger than the example."""
        if self.axis == -1:
            return math.prod(value.shape[1:-1])
        axes = zip(value.shape[2:], self.kernel, self.stride, self.padding, strict=True)
        return math.prod((size + sum(pads) - k) // stride + 1 for size, k, stride, pads in axes)

    def _affine(self) -> Affine:
        """Geometry reads only the numbers of an affine view."""
        none = None
        return Affine(
            kind="conv",
            node=none,  # type: ignore[arg-type]
            output=none,  # type: ignore[arg-type]
            data=none,  # type: ignore[arg-type]
            weight="",
            bias=None,
            axis=1,
            layout="oi",
            stride=self.stride,
            padding=self.padding,
            dilation=(1,) * len(self.stride),
        )
