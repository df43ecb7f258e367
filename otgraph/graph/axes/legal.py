"""Which masks may be cut: every axis of every tensor must keep at least one position."""

from __future__ import annotations

import numpy as np

from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.expression import Expression, Mask


def legalise(axes: AxisMap, keep: Keep) -> dict[str, Mask]:
    """The smallest enlargement of ``keep`` under which no axis vanishes.

    An axis that runs over part of a dim (index classes) can lose all its positions although the dim does not;
    its first index is then kept. Dims that are not prunable are left out.
    """
    masks = {name: np.asarray(mask, bool).copy() for name, mask in keep.items() if axes.dims[name].prunable}
    for mask in masks.values():
        if not mask.any():
            mask[0] = True
    shapes = [*axes.tensors.values(), *(shape for results in axes.values.values() for shape in results)]
    for expression in {axis for shape in shapes for axis in shape}:
        _revive(expression, masks)
    return masks


def _revive(axis: Expression, masks: dict[str, Mask]) -> None:
    for name in axis.dims():
        if name in masks and not axis.mask(masks).any():
            masks[name] |= _first_index(axis, name, len(masks[name]))


def _first_index(axis: Expression, name: str, size: int) -> Mask:
    """The mask of the first index of ``name`` that alone gives the axis a position."""
    for index in range(size):
        mask = np.zeros(size, bool)
        mask[index] = True
        if axis.mask({name: mask}).any():
            return mask
    return np.ones(size, bool)
