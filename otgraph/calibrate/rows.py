"""An affine node as a plain regression: sampled output positions as rows (im2col) and targets, by groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from otgraph.window import Window

BLOCK_BYTES = 64 << 20
"""Bytes of rows that are made at a time."""


@dataclass(frozen=True)
class Sampling:
    """Which output positions of each input are used: neighbors say nearly the same, and the early layers of
    an image network have 10,000 of them.

    At least ``positions`` of each input, and ``per_column`` rows in all for each column of the system; all,
    where an input has no more. Drawn for each batch by its number alone, so that two networks are read at
    the same places.
    """

    positions: int = 16
    per_column: int = 16
    least: int = 4096
    """Rows in all, however narrow the system is."""
    most: int | None = None
    """At most so many positions of an input."""

    def count(self, width: int, samples: int) -> int:
        """How many positions to use of each of ``samples`` inputs for a system of ``width`` columns."""
        rows = max(self.per_column * width, self.least)
        count = max(self.positions, -(-rows // max(samples, 1)))
        return count if self.most is None else min(count, self.most)

    @staticmethod
    def pick(total: int, count: int, batch: int) -> torch.Tensor:
        """``count`` of ``total`` positions (all, if there are no more), ascending, for one batch."""
        if count >= total:
            return torch.arange(total)
        random = np.random.default_rng((batch, total))
        return torch.from_numpy(np.sort(random.choice(total, count, replace=False)))


@dataclass(frozen=True)
class Geometry:
    """The regression of a map that slides as ``window`` says: ``groups`` problems of ``width`` columns,
    ``out`` outputs each."""

    window: Window
    precision: torch.dtype = torch.float64

    @property
    def groups(self) -> int:
        """Problems that share nothing."""
        return self.window.groups

    @property
    def width(self) -> int:
        """Columns of each: channels, times the taps of the kernel (which run fastest)."""
        return self.window.inputs // self.groups * math.prod(self.window.kernel)

    @property
    def out(self) -> int:
        """Outputs of each."""
        return self.window.outputs // self.groups

    def space(self, data: torch.Tensor) -> tuple[int, ...]:
        """The output axes besides samples and channels: spatial ones, or the steps of a sequence."""
        if self.window.axis == -1:
            return tuple(data.shape[1:-1])
        return self.window.positions(data.shape[2:])

    def shape(self, data: torch.Tensor) -> tuple[int, ...]:
        """The shape of the node's output for the input ``data``."""
        if self.window.axis == -1:
            return (*data.shape[:-1], self.out)
        return (data.shape[0], self.groups * self.out, *self.space(data))

    def columns(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight (out, in/groups, *kernel) as matrices of shape (groups, width, out), float64."""
        return weight.double().reshape(self.groups, self.out, self.width).transpose(1, 2)

    def weight(self, columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of ``columns``, in the shape and type of ``like``."""
        return columns.transpose(1, 2).reshape(like.shape).to(like.dtype)

    def blocks(
        self, data: torch.Tensor, target: torch.Tensor, at: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield rows (groups, p, width) and targets (groups, p, out), both of ``precision``.

        ``data``: the node's input; ``target``: what ``gathered`` takes of its output at the positions ``at``.
        A block holds at most about ``BLOCK_BYTES`` of rows (those of one sample at least).
        """
        size = self.precision.itemsize * max(len(at), 1) * self.width * self.groups
        samples = max(1, BLOCK_BYTES // size)
        for first in range(0, data.shape[0], samples):
            part = slice(first, first + samples)
            yield self._rows(data[part], at), self._targets(target[part])

    def _rows(self, data: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """(groups, N*p, width): the input at the positions, window by window."""
        if self.window.axis == -1:
            return gathered(data, -1, at).transpose(1, 2).reshape(1, -1, self.width).to(self.precision)
        flat, inside = self._sources(data.shape[2:], at)
        values = _take(data.flatten(2), flat.reshape(-1))
        n, channels = values.shape[:2]
        if not inside.all():
            values = values * inside.reshape(-1).to(values.dtype)
        split = values.view(n, self.groups, channels // self.groups, len(at), -1)
        rows = split.permute(1, 0, 3, 2, 4).reshape(self.groups, n * len(at), self.width)
        return rows.to(self.precision)

    def _sources(self, spatial: torch.Size, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each position and tap the flat input index, and whether it lies inside: both (p, taps)."""
        window = self.window
        outputs = np.unravel_index(at.numpy(), window.positions(spatial))
        taps = np.unravel_index(np.arange(math.prod(window.kernel)), window.kernel)
        flat = np.zeros((len(at), len(taps[0])), np.int64)
        inside = np.ones_like(flat, dtype=bool)
        for axis, size in enumerate(spatial):
            first = outputs[axis] * window.stride[axis] - window.padding[axis][0]
            index = first[:, None] + taps[axis][None] * window.dilation[axis]
            inside &= (index >= 0) & (index < size)
            flat = flat * size + index.clip(0, size - 1)
        return torch.from_numpy(flat), torch.from_numpy(inside)

    def _targets(self, target: torch.Tensor) -> torch.Tensor:
        """(N, groups*out, p) → (groups, N*p, out)."""
        n = target.shape[0]
        split = target.reshape(n, self.groups, self.out, -1)
        return split.permute(1, 0, 3, 2).reshape(self.groups, -1, self.out).to(self.precision)


def gathered(value: torch.Tensor, axis: int, at: torch.Tensor) -> torch.Tensor:
    """``value``, channels on ``axis`` (1 or -1), at flat positions of its other axes: (N, channels, p)."""
    if axis == 1:
        flat = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
    else:
        flat = value.reshape(value.shape[0], -1, value.shape[-1]).transpose(1, 2)
    return flat if len(at) == flat.shape[2] else _take(flat, at)


def _take(flat: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """``flat[:, :, at]``; torch's gather is several times faster than its indexing."""
    return flat.gather(2, at.expand(*flat.shape[:2], -1))
