"""``AxisMap``: what the axis analysis found out about a graph, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from otgraph.graph.axes.expression import Expression
from otgraph.remark import Remark

Role = Literal["writes", "reads", "carries"]
Keep = Mapping[str, npt.NDArray[np.bool_]]
"""Dim name → boolean mask over its indices; a dim that is not named is kept whole."""


@dataclass(frozen=True)
class AxisPort:
    """One axis of one stored tensor over which a dim runs, and what the tensor does with it."""

    tensor: str
    axis: int
    role: Role


@dataclass(frozen=True)
class Dim:
    """An index set that shrinks as one.

    ``name`` is stable for a given model: the tensor that writes it first. ``blocked`` is None for a dim that
    may be cut, else the reason. ``normalized``: cutting changes the statistics of a normalization, so the
    masking law does not hold. ``residual``: the dim runs through an addition of two computed values.
    """

    name: str
    size: int
    ports: tuple[AxisPort, ...]
    blocked: str | None = None
    normalized: bool = False
    residual: bool = False

    @property
    def prunable(self) -> bool:
        """Whether indices of this dim may be removed."""
        return self.blocked is None and self.size > 1


@dataclass(frozen=True)
class AxisMap:
    """Axes of every value and tensor of a graph, over its dims.

    ``values`` maps a node name to the axes of each tensor it returns; ``tensors`` a weight name to its axes.
    An axis is an ``Expression``; ``expression.mask(keep)`` turns masks of dims into a mask of that axis and
    ``expression.dims()`` names the dims it runs over.
    """

    dims: Mapping[str, Dim]
    values: Mapping[str, tuple[tuple[Expression, ...], ...]]
    tensors: Mapping[str, tuple[Expression, ...]]
    remarks: tuple[Remark, ...] = ()

    def prunable(self) -> tuple[Dim, ...]:
        """The dims that may be cut, in program order."""
        return tuple(dim for dim in self.dims.values() if dim.prunable)
