"""An affine node as a plain regression: its input as rows (im2col), its output as targets, group by group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    def blocks(self, data: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield rows (groups, p, width) and targets (groups, p, out), both float64, over all positions p.

        ``data`` is the node's input, ``target`` has the shape of its output. A block holds at most about
        ``BLOCK_BYTES`` of rows (one line of one sample at least).
        """
        if self.affine.kind == "linear":
            yield from self._linear_blocks(data, target)
            return
        windows = self._windows(data)  # (N, C, *out, *kernel), a view
        lines = windows.shape[2]
        line = 8 * windows[:1, :, :1].numel()
        samples = max(1, BLOCK_BYTES // max(1, line * lines))
        step = lines if samples > 1 else max(1, min(lines, BLOCK_BYTES // max(1, line)))
        for first in range(0, windows.shape[0], samples):
            for top in range(0, lines, step):
                cut = (slice(first, first + samples), slice(None), slice(top, top + step))
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
        """(N, C, *out, *kernel) → (groups, N*out, C/groups*kernel)."""
        spatial = len(self.kernel)
        n, channels = windows.shape[:2]
        split = windows.reshape(n, self.groups, channels // self.groups, *windows.shape[2:])
        out_axes = range(3, 3 + spatial)
        kernel_axes = range(3 + spatial, 3 + 2 * spatial)
        order = (1, 0, *out_axes, 2, *kernel_axes)
        return split.permute(order).reshape(self.groups, -1, self.width).double()

    def _targets(self, target: torch.Tensor) -> torch.Tensor:
        n = target.shape[0]
        split = target.reshape(n, self.groups, self.out, -1)
        return split.permute(1, 0, 3, 2).reshape(self.groups, -1, self.out).double()
