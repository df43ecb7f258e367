"""Which masks may be cut: every axis of every tensor must keep at least one position."""

from __future__ import annotations

import numpy as np

from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.expression import Atom, Concatenation, Expression, Indexed, Mask, Product


def legalize(axes: AxisMap, keep: Keep) -> dict[str, Mask]:
    """The smallest enlargement of ``keep`` under which no axis vanishes.

    An axis that runs over part of a dim (index classes) can lose all its positions although the dim does not;
    its first position is then kept. Dims that are not prunable are left out.
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
    """Keep one position of an axis that has none: of a product, of each factor that has none."""
    if axis.mask(masks).any():
        return
    if isinstance(axis, Product):
        for part in axis.parts:
            _revive(part, masks)
    else:
        _keep_position(axis, 0, masks)


def _keep_position(axis: Expression, position: int, masks: dict[str, Mask]) -> None:
    if isinstance(axis, Atom):
        if axis.name in masks:
            masks[axis.name][position] = True
    elif isinstance(axis, Indexed):
        _keep_position(axis.base, axis.index[position], masks)
    elif isinstance(axis, Concatenation):
        for part in axis.parts:
            if position < part.size:
                _keep_position(part, position, masks)
                return
            position -= part.size
    else:
        for part in reversed(axis.parts):
            position, inner = divmod(position, part.size)
            _keep_position(part, inner, masks)
