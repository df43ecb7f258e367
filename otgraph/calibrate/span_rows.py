"""What enters a span as rows of a regression: windows of one value, at one stride."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from otgraph.calibrate.rows import Geometry, gathered
from otgraph.graph.span_site import Shape, SpanSite
from otgraph.window import Window


@dataclass(frozen=True)
class Source:
    """The rows that some spans share, whatever they make of them: what ``window`` (of a single output) reads
    of the value ``entry``, position by position. ``space``: the sizes of the result."""

    entry: str
    window: Window
    space: Shape

    @staticmethod
    def of(site: SpanSite, entry: str, kernel: Shape) -> Source:
        """The rows for a map of ``kernel`` (empty: of one position)."""
        return Source(entry, replace(site.window_of(kernel), outputs=1), site.space)

    @property
    def width(self) -> int:
        """The number of columns: channels, times the taps of the kernel (which run fastest)."""
        return Geometry(self.window).width

    @property
    def tap(self) -> int:
        """The tap that reads the position itself (input position output times stride)."""
        place = 0
        for size, (before, _) in zip(self.window.kernel, self.window.padding, strict=True):
            place = place * size + min(before, size - 1)
        return place

    @property
    def own(self) -> torch.Tensor:
        """The columns that hold the position itself, by channel."""
        return torch.arange(self.window.inputs) * math.prod(self.window.kernel) + self.tap

    def rows(self, value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """(N*p, width): the windows of ``value`` at the flat output positions ``at``."""
        if self.window.axis == -1:
            return gathered(value, -1, at).transpose(1, 2).reshape(-1, self.width)
        geometry = Geometry(self.window, value.dtype)
        nothing = value.new_zeros((value.shape[0], 1, len(at)))
        return torch.cat([rows[0] for rows, _ in geometry.blocks(value, nothing, at)])

    def positions(self, value: torch.Tensor) -> int:
        """How many output positions there are for ``value``, which may be larger than the example."""
        return math.prod(Geometry(self.window).space(value))
