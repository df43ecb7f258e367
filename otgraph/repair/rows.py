"""An affine node as a plain regression: its input as rows (im2col), its output as targets, group by group."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from otgraph.graph.affine import Affine

BLOCK_BYTES = 64 << 20
"""Bytes of float64 rows that are made at a time."""


@dataclass(frozen=True)
class Geometry:
    """The sizes of the regression of one affine node: ``groups`` problems of ``width`` columns, ``out``
    outputs each."""

    affine: Affine
    kernel: tuple[int, ...]
    groups: int
    width: int
    out: int

    @staticmethod
    def of(affine: Affine, weight: torch.Tensor) -> Geometry:
        """From a weight as ``read_weight`` gives it: (out, in/groups, *kernel)."""
        groups = affine.groups
        return Geometry(affine, tuple(weight.shape[2:]), groups, weight[0].numel(), weight.shape[0] // groups)

    def fits(self, data: torch.Tensor, target: torch.Tensor) -> bool:
        """Whether ``target`` has the shape of this node's output for the input ``data``."""
        if self.affine.kind == "linear":
            return target.shape == (*data.shape[:-1], self.out)
        spatial = self._windows(data[:1]).shape[2 : 2 + len(self.kernel)]
        return target.shape == (data.shape[0], self.groups * self.out, *spatial)

    def columns(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight (out, in/groups, *kernel) as matrices of shape (groups, width, out), float64."""
        return weight.double().reshape(self.groups, self.out, self.width).transpose(1, 2)

    def weight(self, columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of ``columns``, in the shape and type of ``like``."""
        return columns.transpose(1, 2).reshape(like.shape).to(like.dtype)

    def blocks(
        self, data: torch.Tensor, target: torch.Tensor, positions: int | None = None, seed: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield rows (groups, p, width) and targets (groups, p, out), both float64.

        ``data`` is the node's input, ``target`` has the shape of its output. ``positions``: at most so many
        of the output positions of a sample are used, drawn anew for every block with ``seed``: neighbours
        say nearly the same, and the early layers of an image network have 10,000 of them. A block holds at
        most about ``BLOCK_BYTES`` of rows (those of one sample at least).
        """
        if self.affine.kind == "linear":
            yield from self._linear_blocks(data, target)
            return
        windows = self._windows(data)  # (N, C, *out, *kernel), a view
        space = windows.shape[2 : 2 + len(self.kernel)]
        total = math.prod(space)
        random = np.random.default_rng(seed)
        used = total if positions is None else min(total, positions)
        samples = max(1, BLOCK_BYTES // max(1, 8 * used * self.width * self.groups))
        for first in range(0, windows.shape[0], samples):
            chosen = np.arange(total) if used == total else np.sort(random.choice(total, used, replace=False))
            at = tuple(torch.from_numpy(index) for index in np.unravel_index(chosen, space))
            cut = (slice(first, first + samples), slice(None), *at)
            yield self._rows(windows[cut]), self._targets(target[cut])

    def _linear_blocks(
        self, data: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rows, wanted = data.reshape(-1, data.shape[-1]), target.reshape(-1, target.shape[-1])
        size = max(1, BLOCK_BYTES // (8 * self.width))
        for r, t in zip(rows.split(size), wanted.split(size), strict=True):
            yield r.double()[None], t.double()[None]

    def _windows(self, data: torch.Tensor) -> torch.Tensor:
        affine = self.affine
        pads = [p for pair in reversed(affine.padding) for p in pair]
        view = functional.pad(data, pads) if any(pads) else data
        for axis, (size, stride, dilation) in enumerate(
            zip(self.kernel, affine.stride, affine.dilation, strict=True), start=2
        ):
            view = view.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return view

    def _rows(self, windows: torch.Tensor) -> torch.Tensor:
        """(N, C, positions, *kernel) → (groups, N*positions, C/groups*kernel)."""
        n, channels, positions = windows.shape[:3]
        split = windows.reshape(n, self.groups, channels // self.groups, positions, *self.kernel)
        kernel_axes = range(4, 4 + len(self.kernel))
        return split.permute(1, 0, 3, 2, *kernel_axes).reshape(self.groups, -1, self.width).double()

    def _targets(self, target: torch.Tensor) -> torch.Tensor:
        n = target.shape[0]
        split = target.reshape(n, self.groups, self.out, -1)
        return split.permute(1, 0, 3, 2).reshape(self.groups, -1, self.out).double()
