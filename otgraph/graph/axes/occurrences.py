"""Where on an axis the indices of a dim lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otgraph.graph.axes.expression import Atom, Concatenation, Expression, Indexed, Product

Labels = npt.NDArray[np.int64]


def occurrences(axis: Expression, dim: str, size: int) -> Labels:
    """Positions of a dim of ``size`` indices on ``axis``: shape (r, size); column c lists where index c lies.

    A factor of a product occurs once per index of the other factors, so r > 1. Where indices occur unequally
    often (index classes), only the first occurrences that all of them have are given; r may then be 0.
    """
    labels = _labels(axis, dim)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    counts = np.bincount(ordered[ordered >= 0], minlength=size)
    starts = np.searchsorted(ordered, np.arange(size))
    return order[starts[None, :] + np.arange(int(counts.min(initial=len(labels))))[:, None]].astype(np.int64)


def _labels(axis: Expression, dim: str) -> Labels:
    """Per position the index of ``dim`` it belongs to, or -1."""
    if dim not in axis.dims():
        return np.full(axis.size, -1, np.int64)
    match axis:
        case Atom():
            return np.arange(axis.size, dtype=np.int64)
        case Concatenation(parts):
            return np.concatenate([_labels(part, dim) for part in parts])
        case Indexed(base, index):
            return _labels(base, dim)[list(index)]
        case Product(parts):
            labels = np.full(1, -1, np.int64)
            for part in parts:
                inner = _labels(part, dim)
                labels = np.maximum(labels[:, None], inner[None, :]).ravel()
            return labels
